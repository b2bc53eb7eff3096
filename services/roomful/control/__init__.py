"""The controller: gives shards' servers their roles, and changes the topology."""
