"""History that lasts: messages outlive the shard's hot log in PostgreSQL, or embedded in SQLite."""
