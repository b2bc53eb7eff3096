-- Tokens that are refused until their time, so that a restart does not make them good again.
CREATE TABLE revocation (
    subject TEXT PRIMARY KEY, -- one user or one token
    lapses_at REAL NOT NULL, -- seconds since the epoch
    words BLOB NOT NULL -- what one edge would tell the others
);
