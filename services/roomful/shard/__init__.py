"""Room state behind one interface: in the process, or on Redis."""
