"""The stateless process that holds client connections."""
