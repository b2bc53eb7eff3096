"""Pure protocol core: codecs, the session as a table, error registries. No I/O, no clock."""
