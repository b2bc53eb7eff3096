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
local VERSION = 1

local SHARD, MARKS, OUTBOX, TOPOLOGY, TERMS =
  'roomful:shard', 'roomful:marks', 'roomful:outbox', 'roomful:topology', 'roomful:terms'

-- Numbers are doubles, exact to 2^53: enough for 8191 terms of 2^40 offsets.
local TERM_SIZE, MAX_TERM, MAX_OFFSET = 2 ^ 40, 8191, 2 ^ 53 - 1
local MAX_MESSAGES = 4096
local MAX_FREEZE_MS, IMPORT_RETRY_MS = 2000, 20
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
    if is_writing then redis.call('SET', key, record) end
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

-- What changes in a bucket that moves has to be copied again: it is in '{b}m'.
local function note(tag, names)
  for first = 1, #names, 1000 do
    redis.call('SADD', tag .. 'm', unpack(names, first, math.min(first + 999, #names)))
  end
end

-- With a room's people ('p:') change their statuses and links.
local function note_key(key)
  local tag, name = split(key)
  local is_people = string.sub(key, #tag + 1, #tag + 1) == 'p'
  note(tag, is_people and {key, tag .. 's:' .. name, tag .. 'c:' .. name} or {key})
end

-- The same for a call about one key of a bucket; *version* is nil for a read.
local function admit(term, key, version, now)
  local seq, refusal = at_term(term)
  if refusal then return nil, refusal end
  local tag = split(key)
  local bucket = settle(tag .. 'b', redis.call('GET', tag .. 'b'), now, version ~= nil)
  local why = closed(bucket, version, now)
  if why then return nil, refuse(why, tag) end
  if bucket.state == 'MOVING' and version then note_key(key) end
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
    if current > 0 then redis.call('HSET', TERMS, text(seq), text(kept)) end
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
  if math.abs(batch.now - batch.marked) < batch.age / 64 then return end
  -- Before the first mark nothing was stored, so nothing is old.
  redis.call('ZADD', MARKS, text(batch.now), batch.marked == 0 and '0' or text(batch.before))
  redis.call('ZREMRANGEBYSCORE', MARKS, '-inf', text(batch.now - batch.age - 2 * MEMORY_MS))
  redis.call('HSET', SHARD, 'marked', text(batch.now))
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

-- Publishing -------------------------------------------------------------------------------------

-- The batch by room, before any offset is given (rule a of the design), whatever the caller did.
-- A room is a run of messages: where its arguments begin, how many there are, and the number of
-- the first in the reply; a room that comes again continues in `more`.
local function by_room(keys, args)
  local rooms, known, at, number = {}, {}, 7, 1
  local classes, is_same = args[6], #args[6] == 1
  for index = 1, #keys do
    local key, count = keys[index], tonumber(args[at + 1])
    local class = is_same and classes or string.sub(classes, index, index)
    local run, before = {key = key, version = args[at], at = at + 2, count = count, number = number,
      class = class, more = false, tag = false, name = false}, known[key]
    known[key] = run
    if before then
      before.more = run
    else
      run.tag, run.name = split(key)
      rooms[#rooms + 1] = run
    end
    at, number = at + 2 + 3 * count, number + count
  end
  assert(at == #args + 1 and number <= MAX_MESSAGES + 1, 'roomful: not a batch')
  return rooms
end

-- Answer all messages of a room with what *reply* gives for each.
local function answer(batch, room, reply)
  while room do
    for index = 0, room.count - 1 do
      batch.replies[room.number + index] = reply(batch.args[room.at + 3 * index])
    end
    room = room.more
  end
end

-- Set the room's tail, and at times how long it and the log are kept.
local function keep(batch, room, last, renew)
  local key, now, slack = room.tag .. 't:' .. room.name, batch.now, math.floor(batch.age / 8)
  local left = renew and renew - now or 0
  if left > 0 and left <= slack then
    redis.call('SET', key, string.sub(room.tail, 1, 13) .. last, 'KEEPTTL')
    return
  end
  local kept = batch.age + slack
  redis.call('SET', key, text(now + slack) .. last, 'PX', text(kept + MEMORY_MS))
  redis.call('PEXPIRE', room.key, text(kept))
  local old = outdated_in(room.tag, outdated(now, batch.age, batch.before), {})
  redis.call('XTRIM', room.key, 'MINID', '=', text(old + 1))
end

-- Store one message; gives its offset, or the words of its first one, or of an error.
local function store(batch, log, newest, identity, is_named, time, envelope)
  local seq = batch.seq + 1
  local offset = text(seq)
  if identity then
    local words = offset .. ' ' .. time
    local window = is_named and batch.window or batch.retry
    local first = redis.call('SET', identity, words, 'NX', 'GET', 'PX', window)
    if first then return first end
  end
  local id = offset .. '-' .. newest
  local added = redis.pcall('XADD', log, 'MAXLEN', '~', batch.keep, id, 'e', envelope)
  if type(added) == 'table' then
    if identity then redis.call('DEL', identity) end
    return 'ERROR ' .. added.err
  end
  batch.seq = seq
  return seq, offset
end

local function append(batch, room)
  local args, replies, log, ids = batch.args, batch.replies, room.key, ids_of(room)
  local newest, renew = tail(room.tail)
  newest = newest or text(forgotten_in(room.tag, forgotten(batch.now, batch.before), {}))
  local first, parts, run = newest, {}, room
  while run do
    local number = run.number
    for at = run.at, run.at + 3 * run.count - 1, 3 do
      local identity, envelope = args[at], args[at + 2]
      local is_named = string.byte(identity) ~= 126 -- ~
      identity = identity ~= '' and ids .. identity
      local reply, offset = store(batch, log, newest, identity, is_named, args[at + 1], envelope)
      if offset then
        newest, parts[#parts + 1] = offset, '\146' .. cmsgpack.pack(reply) .. envelope
      end
      replies[number], number = reply, number + 1
    end
    run = run.more
  end
  if #parts == 0 then return end
  local head = '\147\0' .. cmsgpack.pack(tonumber(first)) .. array(#parts)
  local publication = head .. table.concat(parts)
  keep(batch, room, newest, renew)
  redis.call('PUBLISH', 'r:' .. room.name, publication)
  if not batch.outbox or room.class == '-' then return end
  if batch.is_full then
    batch.unarchived = newest
  else
    redis.call('XADD', OUTBOX, newest .. '-' .. text(batch.now), 'r', room.name, 'p', publication)
    batch.boxed = batch.boxed + #room.name + #publication
  end
end

-- What the archiver was given, in bytes; and up to where messages were stored that it never gets.
local function note_outbox(batch)
  if batch.boxed > 0 then redis.call('HINCRBY', SHARD, 'outbox', text(batch.boxed)) end
  if batch.unarchived then redis.call('HSET', SHARD, 'unarchived', batch.unarchived) end
end

-- The rooms that take the batch though the outbox is full; the others must not get ahead of it.
-- Of those nothing new is taken, but what was stored before is still told.
local function not_lagging(batch, rooms)
  local taking, count = {}, 0
  for _, room in ipairs(rooms) do
    if room.class == '1' then
      local ids = ids_of(room)
      answer(batch, room, function(identity)
        return identity ~= '' and redis.call('GET', ids .. identity) or 'LAGGING'
      end)
    else
      taking[#taking + 1] = room
      while room do count, room = count + room.count, room.more end
    end
  end
  return taking, count
end

-- What the messages of a room will change.
local function note_messages(batch, room)
  local tag, ids = room.tag, ids_of(room)
  local names = {room.key, tag .. 't:' .. room.name}
  while room do
    for index = 0, room.count - 1 do
      local identity = batch.args[room.at + 3 * index]
      if identity ~= '' then names[#names + 1] = ids .. identity end
    end
    room = room.more
  end
  note(tag, names)
end

-- The rooms whose buckets take the batch, and how many messages those are; answers the others.
local function admitted(batch, rooms)
  local wanted, open, count = {}, {}, 0
  for index, room in ipairs(rooms) do
    wanted[2 * index - 1], wanted[2 * index] = room.tag .. 'b', room.tag .. 't:' .. room.name
  end
  local found = get_all(wanted)
  for index, room in ipairs(rooms) do
    local record = found[2 * index - 1]
    if record ~= 'OWNED ' .. room.version then
      local bucket = settle(room.tag .. 'b', record, batch.now, true)
      local why = closed(bucket, room.version, batch.now)
      if why then
        answer(batch, room, function() return why end)
        room = nil
      elseif bucket.state == 'MOVING' then
        note_messages(batch, room)
      end
    end
    if room then
      open[#open + 1], room.tail = room, found[2 * index]
      local run = room
      while run do count, run = count + run.count, run.more end
    end
  end
  return open, count
end

local function publish(keys, args)
  local shard = redis.call('HMGET', SHARD, 'term', 'seq', 'marked', 'outbox')
  if shard[1] ~= args[1] then return refuse('STALE_TERM', shard[1] or '0') end
  local batch = {args = args, keep = args[2], age = tonumber(args[3]), window = args[4],
    retry = text(math.min(tonumber(args[4]), RETRY_MS)),
    outbox = false, is_full = false, boxed = 0, unarchived = false, now = now_ms(),
    marked = tonumber(shard[3] or 0), before = tonumber(shard[2]), replies = {}}
  local open, count = admitted(batch, by_room(keys, args))
  if batch.before + count > MAX_OFFSET then return refuse('EXHAUSTED') end
  if args[5] ~= '0' then
    local entries, bytes = string.match(args[5], '^(%d+) ?(%d*)$')
    batch.outbox = true
    batch.is_full = redis.call('XLEN', OUTBOX) >= tonumber(entries) or
      bytes ~= '' and tonumber(shard[4] or 0) >= tonumber(bytes)
  end
  if batch.is_full then
    open, count = not_lagging(batch, open)
    -- WAIT waits for the last write of the connection: an id that is only told is one too, or a
    -- batch that was stored over another connection could be taken for replicated.
    if count == 0 then redis.call('HINCRBY', SHARD, 'seq', '0') end
  end
  if count > 0 then
    -- All at once and first: whatever happens below, no offset is given twice.
    redis.call('HINCRBY', SHARD, 'seq', text(count))
    batch.seq = batch.before
    for _, room in ipairs(open) do append(batch, room) end
    mark(batch)
    note_outbox(batch)
  end
  return batch.replies
end

local function register(name, callback, ...)
  redis.register_function({function_name = name, callback = callback, flags = {...}})
end

-- What a call is refused with as a whole is an error reply that begins with ROOMFUL: STALE_TERM
-- term, and of a call about a bucket MOVED version to, FROZEN retry_ms or VERSION version, with the
-- tag of the bucket behind it. Offsets in replies are integers.

register('roomful_version', function() return VERSION end, 'no-writes')

-- shard, term -> {term, newest offset}; WRONG_SHARD, BAD_TERM. Repeating it changes nothing.
register('roomful_v1_take_term', take_term)

-- term -> {newest offset, {offset a term began after, newest offset before it that was kept, ...}},
-- in any order, as strings.
register('roomful_v1_terms', terms, 'no-writes')

-- KEYS {b}b...; term, version -> the records after it. Only what is NONE becomes OWNED.
register('roomful_v1_claim', claim)

-- KEYS {b}b... -> the records, as they come to now.
register('roomful_v1_buckets', buckets, 'no-writes')

-- KEYS {b}l:room... (each room once is best); term, keep, age_ms, window_ms, outbox ('entries' or
-- 'entries bytes' that it may hold; 0: there is none), classes (one character for each key, or one
-- for all: 1 is required, LAGGING while the outbox is full; 0 is best effort, not archived while
-- it is full; - is off), then for each key version, count, and count times identity ('' or bytes of
-- user:user id), timestamp, envelope
-- -> for each message its offset; or as a string 'offset timestamp' of the first one with that
-- identity; or 'MOVED version to', 'FROZEN retry_ms', 'VERSION version', 'LAGGING', 'ERROR words'.
-- Publishes on r:room the MessagePack [0, offset before, [[offset, envelope], ...]].
register('roomful_v1_publish', publish)
