-- The archive. Everything is named with its schema, as there is no search path that would last
-- behind a PgBouncer in transaction mode.

-- The key has the partition's column, as PostgreSQL wants it. The timestamp is the message's own,
-- given once by the edge that took it, so a message that comes again meets its first copy. In this
-- order one index is the key and gives the pages of a room.
CREATE TABLE roomful.message (
    room text COLLATE "C" NOT NULL,
    "offset" bigint NOT NULL,
    shard text COLLATE "C" NOT NULL,
    timestamp_ms bigint NOT NULL,
    event text NOT NULL,
    id text NOT NULL,
    user_id text NOT NULL,
    body bytea NOT NULL,
    attachments bytea[],
    PRIMARY KEY (room, "offset", shard, timestamp_ms)
) PARTITION BY RANGE (timestamp_ms);

-- What no partition is made for: clocks that are far off, for the most part.
CREATE TABLE roomful.message_other PARTITION OF roomful.message DEFAULT;

CREATE TABLE roomful.partition (
    name text PRIMARY KEY,
    first_ms bigint NOT NULL,
    end_ms bigint NOT NULL
);

CREATE TABLE roomful.dead_letter (
    shard text NOT NULL,
    "offset" bigint NOT NULL,
    reason text NOT NULL,
    raw bytea NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, "offset")
);

-- What was erased, by whom; also what must not be stored again.
CREATE TABLE roomful.erasure (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at_ms bigint NOT NULL,
    by text NOT NULL,
    room text COLLATE "C",
    "offset" bigint,
    user_id text,
    erased bigint -- how many messages; NULL: it was not finished
);
CREATE INDEX erasure_at ON roomful.erasure (at_ms);

-- Up to where retention has been: nothing above `newest` of these rooms was let go.
CREATE TABLE roomful.retained (
    pattern text NOT NULL,
    shard text NOT NULL,
    newest bigint NOT NULL,
    PRIMARY KEY (pattern, shard)
);

-- Make the partition for the moment *at_ms* unless there is one, as long as *size_ms* or up to its
-- neighbours, and move what waited for it in message_other.
CREATE FUNCTION roomful.add_partition(at_ms bigint, size_ms bigint) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    low bigint := at_ms - at_ms % size_ms;
    high bigint := at_ms - at_ms % size_ms + size_ms;
    title text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('roomful.partition', 0));
    IF EXISTS (SELECT FROM roomful.partition p WHERE p.first_ms <= at_ms AND at_ms < p.end_ms) THEN
        RETURN false;
    END IF;
    SELECT greatest(low, max(p.end_ms)) INTO low FROM roomful.partition p WHERE p.end_ms <= at_ms;
    SELECT least(high, min(p.first_ms)) INTO high FROM roomful.partition p WHERE p.first_ms > at_ms;
    title := 'message_' || to_char(to_timestamp(low / 1000.0) AT TIME ZONE 'UTC', 'YYYYMMDD_HH24MISS');
    EXECUTE format('CREATE TABLE roomful.%I (LIKE roomful.message INCLUDING DEFAULTS)', title);
    EXECUTE format('ALTER TABLE roomful.%I ADD PRIMARY KEY (room, "offset", shard, timestamp_ms)', title);
    LOCK TABLE roomful.message_other IN SHARE ROW EXCLUSIVE MODE;
    EXECUTE format(
        'WITH moved AS (DELETE FROM roomful.message_other '
        'WHERE timestamp_ms >= %s AND timestamp_ms < %s RETURNING *) '
        'INSERT INTO roomful.%I SELECT * FROM moved', low, high, title);
    EXECUTE format(
        'ALTER TABLE roomful.message ATTACH PARTITION roomful.%I FOR VALUES FROM (%s) TO (%s)',
        title, low, high);
    INSERT INTO roomful.partition VALUES (title, low, high);
    RETURN true;
END $$;

-- Messages as people want to read them.
CREATE VIEW roomful.readable AS
    SELECT room, "offset", shard, to_timestamp(timestamp_ms / 1000.0) AS at, event, id, user_id,
        convert_from(
            CASE WHEN event IN ('message', 'direct-message') THEN body || '}'::bytea ELSE body END,
            'UTF8'
        ) AS body,
        cardinality(attachments) AS attachments
    FROM roomful.message;
