-- The embedded archive; what it does not have yet is in the journal's files (archive/journal.py).

-- In this order a page of a room is a range of the table itself.
CREATE TABLE message (
    room TEXT NOT NULL,
    "offset" INTEGER NOT NULL,
    shard TEXT NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    event TEXT NOT NULL,
    id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    body BLOB NOT NULL,
    attachments BLOB, -- MessagePack: an array of binaries
    PRIMARY KEY (room, "offset", shard)
) WITHOUT ROWID;

-- For what comes by time: the newest at the start, the oldest for retention.
CREATE INDEX message_offset ON message ("offset");

-- The embedded shard: one row.
CREATE TABLE shard (
    name TEXT NOT NULL,
    newest INTEGER NOT NULL -- that was moved from the journal
);

CREATE TABLE dead_letter (
    shard TEXT NOT NULL,
    "offset" INTEGER NOT NULL,
    reason TEXT NOT NULL,
    raw BLOB NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (shard, "offset")
);

-- What was erased, by whom; also what must not be stored again.
CREATE TABLE erasure (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    by TEXT NOT NULL,
    room TEXT,
    "offset" INTEGER,
    user_id TEXT,
    erased INTEGER -- how many messages; NULL: it was not finished
);

-- Up to where retention has been: nothing above `newest` of these rooms was let go.
CREATE TABLE retained (
    pattern TEXT NOT NULL,
    shard TEXT NOT NULL,
    newest INTEGER NOT NULL,
    PRIMARY KEY (pattern, shard)
);
