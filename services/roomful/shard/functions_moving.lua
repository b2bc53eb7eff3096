
-- Part of the library (see functions.lua): a bucket that moves from this shard, or to it.
--
-- The steps and their order are docs/adr/0020-moving-a-bucket.md, what is in which key is
-- docs/adr/0021-copying-a-bucket.md. S, which has the bucket, decides: OWNED, MOVING, FROZEN, GONE.
-- T, which gets it: IMPORTING, and when it has everything 'whole', then OWNED. All of it is for one
-- migration, a name that is used for one attempt; whatever is of another is refused or changes
-- nothing. What may be repeated writes its record again: WAIT waits for a connection's last write.

local ARRIVALS = 'roomful:arrivals' -- of what came here: bucket -> 'version from upto since'
local PROVISIONAL_MS = 15000 -- links of an edge that has no lease here count for so long
local MAX_SEGMENTS = 32
local LONG = -3 -- in the place of a PTTL

-- A bucket's own keys, which are not copied: its record, what changed in it, and whose links came.
local function is_own(tag, key)
  return #key == #tag + 1 and string.find('bmi', string.sub(key, -1), 1, true) ~= nil
end

-- The bucket of KEYS[1], or why it is not for *migration*.
local function bucket_for(keys, args)
  local seq, refusal = at_term(args[1])
  if refusal then return nil, refusal end
  local tag = split(keys[1])
  local record = redis.call('GET', tag .. 'b')
  local bucket
  bucket, record = settle(tag .. 'b', record, now_ms(), false)
  bucket.tag, bucket.record, bucket.seq = tag, record, seq
  bucket.is_meant = bucket.migration == args[2]
  return bucket
end

local function set_record(bucket, ...)
  local record = table.concat({...}, ' ')
  redis.call('SET', bucket.tag .. 'b', record)
  return record
end

local function again(bucket)
  return bucket.state == 'NONE' and bucket.record or set_record(bucket, bucket.record)
end

-- At S -------------------------------------------------------------------------------------------

local function move(keys, args)
  local bucket, refusal = bucket_for(keys, args)
  if refusal then return refusal end
  if bucket.state == 'MOVING' and bucket.is_meant then return again(bucket) end
  if bucket.state ~= 'OWNED' or bucket.version ~= args[3] then
    return refuse('BUCKET', bucket.record)
  end
  redis.call('DEL', bucket.tag .. 'm')
  local version = math.max(tonumber(bucket.version), tonumber(args[5] or 0))
  return set_record(bucket, 'MOVING', text(version), args[2], args[4])
end

local function keys_in(_, args)
  local _, refusal = at_term(args[1])
  if refusal then return refusal end
  local wanted = {}
  for index = 4, #args do wanted[args[index]] = true end
  local names, following = scan_ids(args[2], args[3])
  if not names then
    local found = redis.call('SCAN', args[2], 'COUNT', args[3])
    following, names = found[1], found[2]
    if following == '0' then following = ids_from(1, 1) end
  end
  local reply = {following}
  for _, key in ipairs(names) do
    local brace = string.find(key, '}', 1, true)
    local tag = brace and string.sub(key, 1, brace)
    if tag and wanted[tag] and not is_own(tag, key) then reply[#reply + 1] = key end
  end
  return reply
end

local function is_leaving(bucket)
  return bucket.is_meant and (bucket.state == 'MOVING' or bucket.state == 'FROZEN')
end

-- A log that is sent in parts, since it is too long to be sent again whenever it grows.
local function is_long(tag, key, longest)
  return string.sub(key, #tag + 1, #tag + 2) == 'l:' and
    (redis.call('MEMORY', 'USAGE', key, 'SAMPLES', '1') or 0) > longest
end

local function dump(keys, args)
  local bucket, refusal = bucket_for(keys, args)
  if refusal then return refusal end
  if not is_leaving(bucket) then return refuse('BUCKET', bucket.record) end
  local reply, size, limit, longest = {}, 0, tonumber(args[3]), tonumber(args[4])
  local now = now_ms()
  for _, key in ipairs(keys) do
    if size >= limit then break end
    local payload, left
    if is_id(key) then
      payload, left = dump_id(key, now)
    elseif is_long(bucket.tag, key, longest) then
      payload, left = false, LONG
    else
      payload, left = redis.call('DUMP', key), redis.call('PTTL', key)
    end
    reply[#reply + 1], reply[#reply + 2] = payload, left
    size = size + #key + (payload and #payload or 0)
  end
  return reply
end

local function entries(keys, args)
  local bucket, refusal = bucket_for(keys, args)
  if refusal then return refusal end
  if not is_leaving(bucket) then return refuse('BUCKET', bucket.record) end
  local log, low, limit, size = keys[1], '-', tonumber(args[4]), 0
  local oldest = range('XRANGE', log, '-', '+', 1)[1]
  local after = tonumber(string.match(args[3], '^%d+'))
  if after and oldest and oldest[2] <= after then low = '(' .. args[3] end
  local reply = {redis.call('PTTL', log), low == '-' and 1 or 0, 0, bucket.seq}
  repeat
    local found = redis.call('XRANGE', log, low, '+', 'COUNT', text(PEEK))
    for _, entry in ipairs(found) do
      reply[#reply + 1], reply[#reply + 2] = entry[1], entry[2][2]
      low, size = '(' .. entry[1], size + #entry[2][2] + ENTRY_BYTES
      if size >= limit then
        reply[3] = 1
        return reply
      end
    end
  until #found < PEEK
  return reply
end

local function changed(keys, args)
  local bucket, refusal = bucket_for(keys, args)
  if refusal then return refusal end
  if not is_leaving(bucket) then return refuse('BUCKET', bucket.record) end
  return redis.call('SPOP', bucket.tag .. 'm', args[3])
end

-- What T has to know of S: see `complete`.
local function parting(bucket)
  local shard = redis.call('HMGET', SHARD, 'name', 'joins')
  local lost = forgotten_in(bucket.tag, forgotten(now_ms(), bucket.seq), {})
  local found, terms = redis.call('HGETALL', TERMS), {}
  for index = 1, #found, 2 do
    local began, kept = tonumber(found[index]), tonumber(found[index + 1])
    if began > lost then terms[#terms + 1] = {began, kept} end
  end
  return cmsgpack.pack({shard[1], bucket.seq, terms, lost, tonumber(shard[2] or 0)})
end

local function freeze(keys, args)
  local bucket, refusal = bucket_for(keys, args)
  if refusal then return refusal end
  if bucket.state ~= 'MOVING' or not bucket.is_meant then return refuse('BUCKET', bucket.record) end
  local till = text(now_ms() + math.min(tonumber(args[3]), MAX_FREEZE_MS))
  local version = text(bucket.version + 1)
  return {set_record(bucket, 'FROZEN', version, args[2], bucket.to, till), parting(bucket)}
end

local function thaw(keys, args)
  local bucket, refusal = bucket_for(keys, args)
  if refusal then return refusal end
  if not is_leaving(bucket) and bucket.state ~= 'OWNED' then return again(bucket) end
  return stay(bucket.tag, bucket.version + (bucket.state == 'FROZEN' and 1 or 0))
end

local function release(keys, args)
  local bucket, refusal = bucket_for(keys, args)
  if refusal then return refusal end
  if bucket.is_meant and bucket.state == 'GONE' then return again(bucket) end
  if bucket.state ~= 'FROZEN' or not bucket.is_meant then return refuse('BUCKET', bucket.record) end
  redis.call('DEL', bucket.tag .. 'm')
  return set_record(bucket, 'GONE', text(bucket.version + 1), args[2], bucket.to)
end

-- At T -------------------------------------------------------------------------------------------

local function begin_import(keys, args)
  local bucket, refusal = bucket_for(keys, args)
  if refusal then return refusal end
  if bucket.state == 'IMPORTING' and bucket.is_meant then return again(bucket) end
  local is_free = bucket.state == 'NONE' or bucket.state == 'GONE'
  if not is_free or tonumber(bucket.version) > tonumber(args[3]) then
    return refuse('BUCKET', bucket.record)
  end
  redis.call('DEL', bucket.tag .. 'i')
  return set_record(bucket, 'IMPORTING', args[3], args[2], args[4])
end

local function in_parts(command, key, names)
  for first = 1, #names, 1000 do
    redis.call(command, key, unpack(names, first, math.min(first + 999, #names)))
  end
end

-- What sweeps go through of a room's links: by edge the people it has there, and who is gone.
local function covered(tag, key)
  local people, links = tag .. 'p:' .. string.sub(key, #tag + 3), redis.call('HGETALL', key)
  local by_edge, gone = {}, {}
  for index = 1, #links, 2 do
    local entry, held = entry_of(people, links[index]), cmsgpack.unpack(links[index + 1])
    if #held == 0 then gone[#gone + 1] = entry end
    for place = 1, #held, 2 do
      local entries = by_edge[held[place]] or {}
      by_edge[held[place]], entries[#entries + 1] = entries, entry
    end
  end
  return by_edge, gone
end

-- Put links where sweeps find them. What is there in vain does no harm.
local function cover_links(tag, key)
  local till = text(now_ms() + PROVISIONAL_MS)
  local by_edge, gone = covered(tag, key)
  for _, entry in ipairs(gone) do redis.call('ZADD', GONE, till, entry) end
  for edge, entries in pairs(by_edge) do
    in_parts('SADD', EDGE .. edge, entries)
    if not redis.call('ZSCORE', LEASES, edge) and redis.call('SISMEMBER', DEAD, edge) == 0 then
      redis.call('SADD', tag .. 'i', edge)
      redis.call('ZADD', LEASES, till, edge)
    end
  end
end

-- The same back, of what is deleted.
local function uncover_links(tag, key)
  local by_edge, gone = covered(tag, key)
  in_parts('ZREM', GONE, gone)
  for edge, entries in pairs(by_edge) do in_parts('SREM', EDGE .. edge, entries) end
end

local function is_links(tag, key) return string.sub(key, #tag + 1, #tag + 2) == 'c:' end

local function is_taking(bucket)
  return bucket.is_meant and bucket.state == 'IMPORTING' and not bucket.is_whole
end

local function import(keys, args)
  local bucket, refusal = bucket_for(keys, args)
  if refusal then return refusal end
  local tag, now = bucket.tag, now_ms()
  if not is_taking(bucket) then return refuse('BUCKET', bucket.record) end
  for index, key in ipairs(keys) do
    local payload, ttl = args[2 * index + 1], tonumber(args[2 * index + 2])
    assert(split(key) == tag and not is_own(tag, key), 'roomful: not of the bucket')
    if is_id(key) then
      import_id(key, payload, ttl, now)
    elseif payload == '' or ttl == 0 then
      redis.call('DEL', key)
    else
      redis.call('RESTORE', key, text(math.max(0, ttl)), payload, 'REPLACE')
      if is_links(tag, key) then cover_links(tag, key) end
    end
  end
  return #keys
end

local function extend(keys, args)
  local bucket, refusal = bucket_for(keys, args)
  if refusal then return refusal end
  if not is_taking(bucket) then return refuse('BUCKET', bucket.record) end
  local log, after = keys[1], args[3]
  if after == '' then
    redis.call('DEL', log)
  else
    local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
    if not last or last[1] ~= after then return refuse('LOG', last and last[1] or '-') end
  end
  for index = 5, #args, 2 do redis.call('XADD', log, args[index], 'e', args[index + 1]) end
  if tonumber(args[4]) > 0 then redis.call('PEXPIRE', log, args[4]) end
  return (#args - 4) / 2
end

-- The counters go above all that S gave, and what came under unknown leases has its time from now.
local function take_over(bucket, words)
  local name, newest, terms, lost, joins = unpack(cmsgpack.unpack(words))
  local mine = tonumber(redis.call('HGET', SHARD, 'joins') or 0)
  redis.call('HSET', SHARD, 'seq', text(math.max(bucket.seq, newest)), 'joins',
    text(math.max(mine, joins)))
  local packed = redis.call('GET', bucket.tag .. 'h')
  local lineage = packed and cmsgpack.unpack(packed) or {}
  lineage[#lineage + 1] = {name, newest, terms, lost}
  if #lineage > MAX_SEGMENTS then
    table.remove(lineage, 1)
    lineage[1][1] = ''
  end
  redis.call('SET', bucket.tag .. 'h', cmsgpack.pack(lineage))
  for _, edge in ipairs(redis.call('SMEMBERS', bucket.tag .. 'i')) do
    if redis.call('HEXISTS', EDGES, edge) == 0 then
      redis.call('ZADD', LEASES, text(now_ms() + PROVISIONAL_MS), edge)
      redis.call('SREM', DEAD, edge)
    end
  end
end

local function complete(keys, args)
  local bucket, refusal = bucket_for(keys, args)
  if refusal then return refusal end
  if bucket.state ~= 'IMPORTING' or not bucket.is_meant then
    return refuse('BUCKET', bucket.record)
  end
  if bucket.is_whole then return again(bucket) end
  take_over(bucket, args[3])
  return set_record(bucket, 'IMPORTING', bucket.version, args[2], bucket.to, 'whole')
end

local function activate(keys, args)
  local bucket, refusal = bucket_for(keys, args)
  if refusal then return refusal end
  local tag, version = bucket.tag, args[3]
  local is_there = bucket.state ~= 'IMPORTING' and tonumber(bucket.version) >= tonumber(version)
  if is_there then return again(bucket) end
  -- S froze it and released it since.
  local is_released = tonumber(version) == bucket.version + 2
  if not (bucket.is_meant and bucket.is_whole and is_released) then
    return refuse('BUCKET', bucket.record)
  end
  -- An offset of its own: who heard this shard up to it has heard of the arrival.
  local since = redis.call('HINCRBY', SHARD, 'seq', 1)
  local lineage = cmsgpack.unpack(redis.call('GET', tag .. 'h'))
  local last = lineage[#lineage]
  local number, newest = string.sub(tag, 2, -2), last[2]
  last[2] = since
  redis.call('SET', tag .. 'h', cmsgpack.pack(lineage))
  redis.call('DEL', tag .. 'i')
  local words = table.concat({version, last[1], text(newest), text(since)}, ' ')
  redis.call('HSET', ARRIVALS, number, words)
  redis.call('PUBLISH', ARRIVALS, number .. ' ' .. words)
  return set_record(bucket, 'OWNED', version)
end

local function drop_import(keys, args)
  local bucket, refusal = bucket_for(keys, args)
  if refusal then return refusal end
  if bucket.state ~= 'IMPORTING' or not bucket.is_meant then return again(bucket) end
  redis.call('DEL', bucket.tag .. 'i')
  return set_record(bucket, 'GONE', bucket.version, args[2], bucket.to)
end

-- At both ----------------------------------------------------------------------------------------

local function clear(keys, args)
  local bucket, refusal = bucket_for(keys, args)
  if refusal then return refusal end
  local is_left = bucket.is_meant and bucket.state == 'GONE'
  if not is_left and not is_taking(bucket) then return refuse('BUCKET', bucket.record) end
  local tag, count, rest = bucket.tag, 0, {}
  for _, key in ipairs(keys) do
    assert(split(key) == tag and not is_own(tag, key), 'roomful: not of the bucket')
    if is_links(tag, key) then uncover_links(tag, key) end
    if is_id(key) then count = count + drop_id(key) else rest[#rest + 1] = key end
  end
  return #rest > 0 and count + redis.call('UNLINK', unpack(rest)) or count
end

local function arrivals(_, args)
  local seq, refusal = at_term(args[1])
  return refusal or {seq, redis.call('HGETALL', ARRIVALS)}
end

local function lineage(keys, args)
  local _, refusal = at_term(args[1])
  if refusal then return refusal end
  local now, reply = now_ms(), {}
  for _, key in ipairs(keys) do
    local tag = split(key)
    local bucket = settle(key, redis.call('GET', key), now, false)
    local why = closed(bucket, nil, now)
    if why then return refuse(why, tag) end
    reply[#reply + 1] = tonumber(bucket.version)
    reply[#reply + 1] = redis.call('GET', tag .. 'h') or array(0)
  end
  return reply
end

-- All of these give the record after it, unless said otherwise, and refuse with BUCKET record when
-- it is not for this step of this migration. Those of S:

-- KEYS {b}b; term, migration, version, to[, newest]. OWNED becomes MOVING, in version `newest`
-- (the newest one that any shard remembers) if S is behind it: its own failover may have lost the end
-- of an attempt that T took part in, and T takes copies of no earlier version than it remembers.
register('roomful_v1_move', move, 'allow-oom')

-- term, cursor, count (about), {b}... -> {next cursor, name, ...} of the keys of these buckets that
-- are copied, and of their ids ({b}d:...), as SCAN gives them. The cursor is 0 at first and at the
-- end, and else whatever was given.
register('roomful_v1_keys', keys_in, 'no-writes')

-- KEYS of one bucket; term, migration, limit_bytes, log_bytes -> {DUMP or nil, PTTL, ...} of the
-- first ones, at least one: none after the limit is reached. Of a log that takes more than log_bytes
-- nil and -3; of an id instead of DUMP the text that a repetition is answered with. MOVING or FROZEN.
register('roomful_v1_dump', dump, 'no-writes')

-- KEYS {b}l:room; term, migration, after (an entry's id, or ''), limit_bytes -> {PTTL,
-- is_from_start, is_more, newest offset of the shard, id, envelope, ...} of the entries after that
-- one; or from the start, if some after it may be gone; is_more: the limit was reached. MOVING or
-- FROZEN.
register('roomful_v1_entries', entries, 'no-writes')

-- KEYS {b}b; term, migration, count -> names of keys that changed since they were named last, which
-- are then the caller's to copy. '{b}e:room' is a log that lost entries: what was sent of it is
-- void. MOVING or FROZEN.
register('roomful_v1_changed', changed, 'allow-oom')

-- KEYS {b}b; term, migration, hold_ms -> {record, words for `complete`}. MOVING becomes FROZEN.
register('roomful_v1_freeze', freeze, 'allow-oom')

-- KEYS {b}b; term, migration. MOVING or FROZEN becomes OWNED; all else stays.
register('roomful_v1_thaw', thaw, 'allow-oom')

-- KEYS {b}b; term, migration. FROZEN becomes GONE, unless the freeze lapsed.
register('roomful_v1_release', release, 'allow-oom')

-- Those of T:

-- KEYS {b}b; term, migration, version (S's), from. NONE or GONE, not of a later version, becomes
-- IMPORTING.
register('roomful_v1_begin_import', begin_import)

-- KEYS of one bucket; term, migration, and for each DUMP ('': it is gone), PTTL -> how many.
register('roomful_v1_import', import)

-- KEYS {b}l:room; term, migration, after (the last id that is there; '': none shall be), PTTL, id,
-- envelope, ... -> how many; LOG last id.
register('roomful_v1_extend', extend)

-- KEYS {b}b; term, migration, words of `freeze`. IMPORTING becomes whole, and offsets given from
-- now on are above all that S gave.
register('roomful_v1_complete', complete)

-- KEYS {b}b; term, migration, version (that S's GONE names). Whole becomes OWNED. Keeps in the hash
-- roomful:arrivals, by bucket, 'version from upto since', and publishes on roomful:arrivals 'bucket
-- version from upto since': what is in the bucket came from shard `from`, whose newest offset was
-- `upto`; what is stored here gets offsets above `since`, which is this shard's newest now.
register('roomful_v1_activate', activate, 'allow-oom')

-- KEYS {b}b; term, migration. IMPORTING becomes GONE to where it was; all else stays. Only when S
-- has not released it.
register('roomful_v1_drop_import', drop_import, 'allow-oom')

-- Those of both:

-- KEYS of one bucket; term, migration -> how many were there: they are deleted. GONE, or IMPORTING.
register('roomful_v1_clear', clear, 'allow-oom')

-- term -> {newest offset, {bucket, 'version from upto since', ...}} of what came last, also if it
-- has gone on: an edge that was not there has to know what it may have missed.
register('roomful_v1_arrivals', arrivals, 'no-writes')

-- KEYS {b}b...; term -> {version, MessagePack [[shard, upto, [[began, kept], ...], lost], ...],
-- ...}: oldest first, where what is in the bucket was stored. An entry is of the first segment whose
-- `upto` is not below its offset, above all of this shard. Of a segment's shard the offsets between
-- `kept` and `began` were never stored, and rooms without entries had none above `lost`. shard '':
-- nobody knows. Refused as a read is.
register('roomful_v1_lineage', lineage, 'no-writes')
