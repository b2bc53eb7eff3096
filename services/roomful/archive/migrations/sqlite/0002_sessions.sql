-- Records of clients that may resume (docs/adr/0031-sessions-in-the-journal.md); those that lapsed
-- are let go from time to time.
CREATE TABLE session (
    pid TEXT PRIMARY KEY,
    lapses_at REAL NOT NULL, -- seconds since the epoch
    record BLOB NOT NULL -- MessagePack
) WITHOUT ROWID;

-- Since when the system runs that the last process ran on: another one may have lost messages.
ALTER TABLE shard ADD COLUMN boot TEXT NOT NULL DEFAULT '';
