-- The embedded archive; what it does not have yet is in the journal's files (archive/journal.py).

-- Some messages of one room, one after another (archive/sqlite_chunks.py): a row for each message
-- costs ten times as much as it (docs/adr/0009). No two chunks of a room overlap.
CREATE TABLE chunk (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    room TEXT NOT NULL,
    first INTEGER NOT NULL, -- offsets
    last INTEGER NOT NULL,
    shard TEXT NOT NULL, -- where those were born that do not say it
    oldest_ms INTEGER NOT NULL,
    newest_ms INTEGER NOT NULL,
    entries BLOB NOT NULL -- MessagePack: an array of [offset, envelope, origin]
);

-- The only one, because each costs as much as the chunk: retention and the start walk all of it.
CREATE INDEX chunk_room ON chunk (room, last, oldest_ms);

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
