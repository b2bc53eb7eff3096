"""Pure cluster rules: cursor, placement. No I/O, no clock."""
