#!lua name=roomful
-- What a shard on Redis does by itself: every rule that two edges could break between them.
--
-- A function's name has the version of its signature and VERSION is that of this text, so that
-- edges and shards can be upgraded apart: a changed signature gets a new name, the old one stays
-- for a release. Signatures and replies are where the functions are registered; the reasons are in
-- docs/adr/0007-function-library.md. Callers declare the one key of each room, session or bucket
-- that they mean; its other keys are derived from it.
-- Order never comes from the clock: it only ends leases, graces, windows and old entries.
-- The library is this file and the other functions_*, joined in the order that library.py says.
local VERSION = 9

local SHARD, MARKS, OUTBOX, TOPOLOGY, TERMS =
  'roomful:shard', 'roomful:marks', 'roomful:outbox', 'roomful:topology', 'roomful:terms'

-- Numbers are doubles, exact to 2^53: enough for 8191 terms of 2^40 offsets.
local TERM_SIZE, MAX_TERM, MAX_OFFSET = 2 ^ 40, 8191, 2 ^ 53 - 1
local MAX_MESSAGES = 4096
local MAX_FREEZE_MS, IMPORT_RETRY_MS = 2000, 20
local MAX_CHANGED = 250000 -- names of keys, some 25 MB
local RETRY_MS = 60000 -- a message that its sender did not name has an id for so long
local MEMORY_MS = 86400000 -- how much longer than its log a room's newest offset is kept


local function refuse(...) return redis.error_reply('ROOMFUL ' .. table.concat({...}, ' ')) end

-- Digits only, and fast: as text the numbers here are whole.
local function text(number) return string.format('%d', number) end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- '{17}l:lobby' gives '{17}' and 'lobby'.
local function split(key)
  local brace = string.find(key, '}', 1, true)
  return string.sub(key, 1, brace), string.sub(key, brace + 3)
end

-- What the names of a room's de-duplication ids begin with; the length keeps rooms apart.
local function ids_of(room)
  return room.tag .. 'd:' .. text(#room.name) .. ':' .. room.name
end

local function get_all(keys)
  if #keys <= 1000 then return redis.call('MGET', unpack(keys)) end
  local found = {}
  for first = 1, #keys, 1000 do
    local some = redis.call('MGET', unpack(keys, first, math.min(first + 999, #keys)))
    for index = 1, #some do found[first + index - 1] = some[index] end
  end
  return found
end

-- MessagePack by hand, because envelopes are spliced in as they are.
local function array(count)
  if count < 16 then return string.char(144 + count) end
  return '\220' .. struct.pack('>H', count)
end

-- Terms and buckets ------------------------------------------------------------------------------
-- A record is 'OWNED version', 'MOVING version migration to' (as open as OWNED), 'FROZEN version
-- migration to until', 'GONE version migration to' or 'IMPORTING version migration from [whole]';
-- without one the bucket is NONE. Each change of who may write raises the version
-- (functions_moving.lua).

-- The bucket stays, and nothing of the attempt to move it is left.
local function stay(tag, version)
  local record = 'OWNED ' .. text(tonumber(version))
  redis.call('UNLINK', tag .. 'm')
  redis.call('SET', tag .. 'b', record)
  return record
end

-- The bucket of a record, and the record it comes to now: a freeze that lapsed is over, which is a
-- change too, and is written down by those that may.
local function settle(key, record, now, is_writing)
  record = record or 'NONE 0'
  local word = {}
  for one in string.gmatch(record, '%S+') do word[#word + 1] = one end
  local bucket = {state = word[1], version = word[2], migration = word[3], to = word[4]}
  bucket.is_whole, bucket.till = word[5] == 'whole', tonumber(word[5])
  if bucket.state == 'FROZEN' and now >= bucket.till then
    bucket = {state = 'OWNED', version = tostring(bucket.version + 1)}
    record = 'OWNED ' .. bucket.version
    if is_writing then stay((split(key)), bucket.version) end
  end
  return bucket, record
end

-- Why a bucket takes no write from who believes in *version*, or no read from anyone (nil).
local function closed(bucket, version, now)
  local state = bucket.state
  if state == 'NONE' then return 'MOVED 0 -' end
  if state == 'GONE' then return 'MOVED ' .. bucket.version .. ' ' .. bucket.to end
  if state == 'IMPORTING' then return 'FROZEN ' .. IMPORT_RETRY_MS end
  if version == nil then return nil end
  if state == 'FROZEN' then return 'FROZEN ' .. text(bucket.till - now) end
  if version ~= bucket.version then return 'VERSION ' .. bucket.version end
end

-- The shard's newest offset, or why it takes no call of *term*.
local function at_term(term)
  local shard = redis.call('HMGET', SHARD, 'term', 'seq')
  if shard[1] ~= term then return nil, refuse('STALE_TERM', shard[1] or '0') end
  return tonumber(shard[2])
end

-- What changes in a bucket that moves has to be copied again: it is in '{b}m'. If that is too much
-- nobody copies, or not fast enough: the bucket stays.
local function note(tag, bucket, names)
  for first = 1, #names, 1000 do
    redis.call('SADD', tag .. 'm', unpack(names, first, math.min(first + 999, #names)))
  end
  if redis.call('SCARD', tag .. 'm') > MAX_CHANGED then stay(tag, bucket.version) end
end

-- With a room's people ('p:') change their statuses and links; and what is not published to a log
-- ('l:') is taken out of it, which no copy may miss.
local function note_key(key, bucket)
  local tag, name = split(key)
  local kind = string.sub(key, #tag + 1, #tag + 1)
  if kind == 'p' then
    note(tag, bucket, {key, tag .. 's:' .. name, tag .. 'c:' .. name})
  else
    note(tag, bucket, {kind == 'l' and tag .. 'e:' .. name or key})
  end
end

-- The same for a call about one key of a bucket; *version* is nil for a read.
local function admit(term, key, version, now)
  local seq, refusal = at_term(term)
  if refusal then return nil, refusal end
  local tag = split(key)
  local bucket = settle(tag .. 'b', redis.call('GET', tag .. 'b'), now, version ~= nil)
  local why = closed(bucket, version, now)
  if why then return nil, refuse(why, tag) end
  if bucket.state == 'MOVING' and version then note_key(key, bucket) end
  return seq
end

local function take_term(_, args)
  local name, term = args[1], tonumber(args[2])
  local shard = redis.call('HMGET', SHARD, 'name', 'term', 'seq')
  local current, seq = tonumber(shard[2] or 0), tonumber(shard[3] or 0)
  if shard[1] and shard[1] ~= name then return refuse('WRONG_SHARD', shard[1]) end
  if not term or term < 1 or term > MAX_TERM then return refuse('BAD_TERM', MAX_TERM) end
  if term < current then return refuse('STALE_TERM', text(current)) end
  if term > current then
    -- Above all that the primary before may have given out, whether it came here or not.
    local kept = seq
    seq = math.max(term * TERM_SIZE, (math.floor(seq / TERM_SIZE) + 1) * TERM_SIZE)
    -- A later term than the first with nothing is a shard whose data is lost: it was given offsets.
    if term > 1 then redis.call('HSET', TERMS, text(seq), text(kept)) end
    redis.call('HSET', SHARD, 'name', name, 'term', text(term), 'seq', text(seq))
  end
  return {term, seq}
end

local function terms(_, args)
  local seq, refusal = at_term(args[1])
  return refusal or {seq, redis.call('HGETALL', TERMS)}
end

-- Whether *offset* was given out by a primary that did not replicate it before it was replaced:
-- who has heard up to it may have heard what is not stored.
local function is_unkept(offset, seq)
  if offset >= math.floor(seq / TERM_SIZE) * TERM_SIZE then return false end
  local found = redis.call('HGETALL', TERMS)
  for index = 1, #found, 2 do
    if offset > tonumber(found[index + 1]) and offset < tonumber(found[index]) then return true end
  end
  return false
end

local function claim(keys, args)
  local _, refusal = at_term(args[1])
  if refusal then return refusal end
  local record = 'OWNED ' .. text(tonumber(args[2]))
  for _, key in ipairs(keys) do redis.call('SET', key, record, 'NX') end
  return get_all(keys)
end

local function buckets(keys)
  local now, records = now_ms(), get_all(keys)
  for index, key in ipairs(keys) do
    local _, record = settle(key, records[index], now, false)
    records[index] = record
  end
  return records
end

-- What is no longer kept -------------------------------------------------------------------------
-- A log entry's id is its offset and, behind the dash, the offset before it in its room: the first
-- entry that is kept tells exactly what was lost, however it was lost. A room's newest offset (its
-- tail) outlives its log by MEMORY_MS; after that the shard's old offsets count as its own.
-- MARKS says how old offsets are: by the time of a batch, the shard's newest offset before it. The
-- first batch has one, and each that comes age/64 or more after the last one marked.

-- A tail's offset, and when to renew what is kept: in its first 13 digits, in milliseconds.
local function tail(value)
  if value then return string.sub(value, 14), tonumber(string.sub(value, 1, 13)) end
end

local function mark(batch)
  local now = text(batch.now)
  if math.abs(batch.now - batch.marked) < batch.age / 64 then return end
  -- Before the first mark nothing was stored, so nothing is old.
  local before = batch.marked == 0 and '0' or text(batch.before)
  if batch.now < batch.marked then
    -- The clock was set back, or is another server's: what it is behind of has its age from now on.
    before = redis.call('ZRANGEBYSCORE', MARKS, now, '+inf', 'LIMIT', 0, 1)[1] or before
    redis.call('ZREMRANGEBYSCORE', MARKS, now, '+inf')
  end
  redis.call('ZADD', MARKS, now, before)
  redis.call('ZREMRANGEBYSCORE', MARKS, '-inf', text(batch.now - batch.age - 2 * MEMORY_MS))
  redis.call('HSET', SHARD, 'marked', now)
end

-- The newest offset before the first mark since *time*; *seq* is the shard's newest of all.
local function before_mark(time, seq)
  local found = redis.call('ZRANGEBYSCORE', MARKS, text(time), '+inf', 'LIMIT', 0, 1)[1]
  if found then return tonumber(found) end
  return redis.call('HEXISTS', SHARD, 'marked') == 1 and seq or 0
end

-- Offsets up to this are older than *age* for certain; what is up to age/64 older may be above.
local function outdated(now, age, seq) return before_mark(now - age - math.ceil(age / 64), seq) end

-- No room without a tail ever had an entry above this.
local function forgotten(now, seq) return before_mark(now - MEMORY_MS, seq) end

-- A bucket that came from elsewhere has its lineage ('{b}h'): up to `since` its offsets are others',
-- of which the marks here say nothing. They are kept until what was stored here first is old, and
-- no room without a tail had one above `lost`. *known* holds what was asked before.
local function arrival(tag, known)
  local found = known[tag]
  if not found then
    local packed = redis.call('GET', tag .. 'h')
    local lineage = packed and cmsgpack.unpack(packed)
    local last = lineage and lineage[#lineage]
    found = {since = last and last[2] or 0, lost = last and last[4] or 0}
    known[tag] = found
  end
  return found
end

-- What was outdated or forgotten on the shard, of one bucket.
local function outdated_in(tag, old, known)
  return old > 0 and old > arrival(tag, known).since and old or 0
end

local function forgotten_in(tag, old, known)
  local found = arrival(tag, known)
  return old > found.since and old or found.lost
end

local function register(name, callback, ...)
  redis.register_function({function_name = name, callback = callback, flags = {...}})
end

-- What a call is refused with as a whole is an error reply that begins with ROOMFUL: STALE_TERM
-- term, and of a call about a bucket MOVED version to, FROZEN retry_ms or VERSION version, with the
-- tag of the bucket behind it. Offsets in replies are integers.

register('roomful_version', function() return VERSION end, 'no-writes')

-- shard, term -> {term, newest offset}; WRONG_SHARD, BAD_TERM. Repeating it changes nothing.
register('roomful_v1_take_term', take_term, 'allow-oom')

-- term -> {newest offset, {offset a term began after, newest offset before it that was kept, ...}},
-- in any order, as strings.
register('roomful_v1_terms', terms, 'no-writes')

-- KEYS {b}b...; term, version -> the records after it. Only what is NONE becomes OWNED.
register('roomful_v1_claim', claim, 'allow-oom')

-- KEYS {b}b... -> the records, as they come to now.
register('roomful_v1_buckets', buckets, 'no-writes')
