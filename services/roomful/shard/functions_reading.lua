
-- Part of the library (see functions.lua): reading logs, session records, publications.

local ENTRY_BYTES = 400 -- what an entry takes at the edge besides its bytes (Envelope.size)
local PEEK = 64 -- entries read at a time, over all logs
local REQUESTS, MAX_REQUESTS = 'roomful:requests', 100

-- Entries of a log as {offset, offset before it, envelope}, from *low* to *high*; numbers or signs.
local function range(command, log, from, to, count)
  local found = redis.call(command, log, from, to, 'COUNT', text(count))
  for index, entry in ipairs(found) do
    local offset, before = string.match(entry[1], '(%d+)%-(%d+)')
    found[index] = {tonumber(offset), tonumber(before), entry[2][2]}
  end
  return found
end

-- A key that somebody made something else is a hole in its room, and nothing to all others.
local function from_left(log, low, count)
  local is_log, entries = pcall(range, 'XRANGE', log, text(low), '+', count)
  return is_log and entries or {}
end

local function up_to(entries, upper)
  while #entries > 0 and entries[#entries][1] > upper do entries[#entries] = nil end
  return entries
end

-- The logs that have something for the reader, each with its first entries; and the places of those
-- that lost something it was owed. Exactly: the first entry kept names the one before it. Each room
-- is read after the offset in *wanted* and up to that in *uppers*.
local function open_logs(keys, wanted, uppers, found, now, age, seq)
  local logs, holes, oldest, known = {}, {}, outdated(now, age, seq), {}
  local lost, count = forgotten(now, seq), math.max(1, math.floor(PEEK / #keys))
  for index, key in ipairs(keys) do
    local after, newest, tag = wanted[index], tail(found[2 * index]), split(key)
    if not newest then
      if forgotten_in(tag, lost, known) > after then holes[#holes + 1] = index - 1 end
    elseif tonumber(newest) > after then
      local low = math.max(after, outdated_in(tag, oldest, known)) + 1
      local entries, upper = from_left(key, low, count), uppers[index]
      if #entries == 0 or entries[1][2] > after then
        holes[#holes + 1] = index - 1
      else
        logs[#logs + 1] = {key = key, index = index - 1, upper = upper, count = count,
          entries = up_to(entries, upper)}
      end
    end
  end
  return logs, holes
end

-- Move what was read of *logs* to *waiting*, and say up to where nothing is missing from that.
local function gather(logs, waiting, horizon)
  for _, log in ipairs(logs) do
    if log.reached == nil or log.reached <= horizon then
      local entries = log.entries or
        up_to(from_left(log.key, log.reached + 1, log.count), log.upper)
      log.entries, log.reached = nil, math.huge
      for _, entry in ipairs(entries) do
        entry[2] = log.index
        waiting[#waiting + 1] = entry
      end
      if #entries == log.count then log.reached = entries[#entries][1] end
    end
  end
  local complete = math.huge
  for _, log in ipairs(logs) do complete = math.min(complete, log.reached) end
  table.sort(waiting, function(one, other) return one[1] < other[1] end)
  return complete
end

-- The oldest entries of *logs* together, in offset order: as many as fit, but at least one.
local function merge(logs, limit)
  local parts, size, waiting, horizon = {}, 0, {}, 0
  while true do
    horizon = gather(logs, waiting, horizon)
    local later = {}
    for _, entry in ipairs(waiting) do
      if entry[1] > horizon then
        later[#later + 1] = entry
      else
        size = size + #entry[3] + ENTRY_BYTES
        if size > limit and #parts > 0 then return parts, parts.reached end
        parts.reached = entry[1]
        parts[#parts + 1] =
          '\147' .. cmsgpack.pack(entry[1]) .. cmsgpack.pack(entry[2]) .. entry[3]
      end
    end
    if horizon == math.huge then return parts, nil end
    waiting = later
  end
end

local function read(keys, args)
  local now, seq, refusal = now_ms(), at_term(args[1])
  if refusal then return refusal end
  local after, limit, age = tonumber(args[2]), tonumber(args[3]), tonumber(args[4])
  local names, wanted, uppers, all, is_ours = {}, {}, {}, {}, false
  for index, key in ipairs(keys) do
    local tag, name = split(key)
    local upper = args[index + 4 + #keys]
    names[2 * index - 1], names[2 * index] = tag .. 'b', tag .. 't:' .. name
    wanted[index], all[index] = math.max(after, tonumber(args[index + 4])), index - 1
    uppers[index] = tonumber(upper) or math.huge
    is_ours = is_ours or not upper or upper == ''
  end
  local found = get_all(names)
  for index = 1, #names, 2 do
    local record = found[index]
    -- Nearly always.
    local is_owned = record and string.sub(record, 1, 6) == 'OWNED '
    local why = not is_owned and closed(settle(names[index], record, now, false), nil, now)
    if why then return refuse(why, (split(names[index]))) end
  end
  -- An offset that was never given out, or whose entries may be lost: nobody knows what its client
  -- has. Of another shard's offsets the lineage says it.
  if is_ours and (after > seq or is_unkept(after, seq)) then return {after, 0, array(0), all} end
  local logs, holes = open_logs(keys, wanted, uppers, found, now, age, seq)
  if #holes > 0 then return {after, 0, array(0), holes} end
  local parts, reached = merge(logs, limit)
  return {reached or seq, reached and 0 or 1, array(#parts) .. table.concat(parts), {}}
end

local function tails(keys, args)
  local seq, refusal = at_term(args[1])
  if refusal then return refusal end
  local names, offsets, now = {}, {}, now_ms()
  for index, key in ipairs(keys) do
    local tag, name = split(key)
    names[2 * index - 1], names[2 * index] = tag .. 'b', tag .. 't:' .. name
  end
  local found = #names > 0 and get_all(names) or names
  for index = 1, #keys do
    local record, offset = found[2 * index - 1], tonumber(tail(found[2 * index]) or 0)
    local is_owned = record and string.sub(record, 1, 6) == 'OWNED '
    if not is_owned and closed(settle(names[2 * index - 1], record, now, false), nil, now) then
      offset = -1
    end
    offsets[index] = offset
  end
  return {seq, offsets}
end

local function page(keys, args)
  local term, before, after, count, limit, age = unpack(args)
  local now, log = now_ms(), keys[1]
  local seq, refusal = admit(term, log, nil, now)
  if refusal then return refusal end
  local old = outdated_in((split(log)), outdated(now, tonumber(age), seq), {})
  local low = math.max(tonumber(after) or 0, old) + 1
  local high = before == '' and '+' or text(before - 1)
  local is_forward, chosen, size, is_more = after ~= '', {}, 0, false
  if high ~= '+' and tonumber(high) < low then return {0, array(0)} end
  repeat
    local entries
    if is_forward then
      entries = range('XRANGE', log, text(low), high, PEEK)
    else
      entries = range('XREVRANGE', log, high, text(low), PEEK)
    end
    for _, entry in ipairs(entries) do
      size = size + #entry[3] + ENTRY_BYTES
      is_more = #chosen == tonumber(count) or size > tonumber(limit) and #chosen > 0
      if is_more then break end
      chosen[#chosen + 1] = entry
      if is_forward then low = entry[1] + 1 else high = text(entry[1] - 1) end
    end
  until is_more or #entries < PEEK
  local parts = {}
  for index, entry in ipairs(chosen) do
    local place = is_forward and index or #chosen + 1 - index
    parts[place] = '\146' .. cmsgpack.pack(entry[1]) .. entry[3]
  end
  return {is_more and chosen[#chosen][1] or 0, array(#parts) .. table.concat(parts)}
end

-- Session records --------------------------------------------------------------------------------

-- A record is kept as 'generation record'. Who took the session up last is the only one to write it.
local function generation_of(key)
  local kept = redis.call('GET', key)
  return kept and tonumber(string.match(kept, '^%d+')) or 0
end

local function save_session(keys, args)
  local term, version, generation, record, ttl, is_taken = unpack(args)
  local _, refusal = admit(term, keys[1], version, now_ms())
  if refusal then return refusal end
  local newest = generation_of(keys[1])
  if newest > tonumber(generation) or is_taken == '1' and newest == tonumber(generation) then
    return 0
  end
  redis.call('SET', keys[1], generation .. ' ' .. record, 'PX', ttl)
  return 1
end

local function load_session(keys, args)
  local _, refusal = admit(args[1], keys[1], nil, now_ms())
  if refusal then return refusal end
  local kept = redis.call('GET', keys[1])
  return kept and string.match(kept, '^%d+ (.*)$')
end

local function drop_session(keys, args)
  local term, version, generation = unpack(args)
  local _, refusal = admit(term, keys[1], version, now_ms())
  if refusal then return refusal end
  if generation_of(keys[1]) > tonumber(generation) then return 0 end
  return redis.call('DEL', keys[1])
end

-- For all edges ----------------------------------------------------------------------------------

-- Who hears it has heard all of the shard up to the offset in it.
local function canary(_, args)
  local seq, refusal = at_term(args[1])
  if refusal then return refusal end
  local words = '\147\2' .. cmsgpack.pack(seq) .. cmsgpack.pack(args[3])
  redis.call('PUBLISH', 'roomful:canary:' .. args[2], words)
  return seq
end

local function control(_, args)
  local _, refusal = at_term(args[1])
  return refusal or redis.call('PUBLISH', 'roomful:control', args[2])
end

-- Keep the newest topology; the answer is the one kept, and only a newer one is announced.
local function set_topology(_, args)
  local generation = tonumber(redis.call('HGET', TOPOLOGY, 'generation') or 0)
  if tonumber(args[1]) <= generation then return generation end
  redis.call('HSET', TOPOLOGY, 'generation', args[1], 'document', args[2])
  redis.call('PUBLISH', 'roomful:topology', args[2])
  return tonumber(args[1])
end

-- What somebody asks of the controller, which takes it away.
local function request(_, args)
  if #redis.call('HGETALL', REQUESTS) / 2 >= MAX_REQUESTS then
    return refuse('no more than', text(MAX_REQUESTS), 'wait for a controller')
  end
  return redis.call('HSET', REQUESTS, args[1], args[2])
end

local function topology()
  return redis.call('HMGET', TOPOLOGY, 'generation', 'document')
end

-- KEYS {b}l:room...; term, after, limit_bytes, age_ms, each room's join offset, and if any, each
-- room's last offset to read ('': none, and *after* is one of this shard's)
-- -> {reached, is_complete, MessagePack [[offset, place of the room in KEYS, envelope], ...],
-- {places of rooms with a hole}}; with a hole there are no entries.
register('roomful_v1_read', read, 'no-writes')

-- KEYS {b}l:room... (or none); term -> {newest offset, {each room's newest offset, 0 if it has
-- none, -1 if its bucket is not here}}.
register('roomful_v1_tails', tails, 'no-writes')

-- KEYS {b}l:room; term, before ('': none), after, count, limit_bytes, age_ms
-- -> {next (0: no more), MessagePack [[offset, envelope], ...]}, oldest first.
register('roomful_v1_page', page, 'no-writes')

-- KEYS {b}o:pid; term, version, generation, record, ttl_ms, is_taken (1: nobody may have had this
-- generation yet; 0) -> 1, or 0: somebody else took it up, with this generation or a later one.
register('roomful_v1_save_session', save_session)

-- KEYS {b}o:pid; term -> the record or nil.
register('roomful_v1_load_session', load_session, 'no-writes')

-- KEYS {b}o:pid; term, version, generation -> 1, or 0: there was none, or one taken up later.
register('roomful_v1_drop_session', drop_session, 'allow-oom')

-- term, edge, token -> newest offset. Publishes on roomful:canary:edge [2, newest offset, token].
register('roomful_v1_canary', canary, 'allow-oom')

-- term, payload -> how many heard it. Publishes on roomful:control.
register('roomful_v1_control', control, 'allow-oom')

-- generation, document -> the generation kept. Publishes a newer document on roomful:topology.
register('roomful_v1_set_topology', set_topology, 'allow-oom')

-- name, document -> 1, or refused: as many as there may be wait already. Those of later names are taken up later. Full shards take it, too:
-- another shard is what they need.
register('roomful_v1_request', request, 'allow-oom')

-- -> {generation, document}, as strings or nil.
register('roomful_v1_topology', topology, 'no-writes')
