
-- Part of the library (see functions.lua): the ids of messages, so that none is stored twice.
--
-- An id is a field of a hash that is one for the whole shard: a batch reads and writes all of its
-- ids in a few calls, whatever rooms it is for (docs/adr/0029-ids-in-hashes.md). As a key of its own
-- each took a quarter of what its message took of the primary and half of that of a replica, and one
-- more command of both when it lapsed.
-- What is in a hash does not lapse. So there are two of them, this generation's and the one before:
-- a generation lasts for the longest window of the ids in the one before, and of its own, so that
-- whatever is in the one that goes is over. An id's value is 'offset timestamp till', in ms; its name
-- begins with its bucket's tag, as that of a key, which it was in the library before: while the first
-- generation lasts there may be such keys. The hashes have a tag too, which is no bucket's.

local KINDS = {'n', 'r'} -- what senders named, and what edges did to retry: their windows differ

local function id_key(kind, number) return '{ids}' .. kind .. ':' .. text(number) end

-- A kind's ids; *words* are what the shard says of them: 'number until longest', or nothing yet.
local function ids_of_kind(kind, words, window)
  local number, till, longest = string.match(words or '1 0 0', '(%d+) (%d+) (%d+)')
  return {kind = kind, is_new = not words, number = tonumber(number), till = tonumber(till),
    longest = tonumber(longest), window = window, wanted = {}, stored = {}}
end

-- What an id's value says of its message, and until when; nothing if that is over.
local function read_id(value, now)
  local words, till = string.match(value, '^(%d+ %d+) (%d+)$')
  till = tonumber(till)
  if till and till >= now then return words, till end
end

-- Look for the ids that are wanted: 'offset timestamp' of what is known goes to *found*, by name.
local function find_ids(ids, now, found)
  local wanted = ids.wanted
  for first = 1, #wanted, 1000 do
    local last = math.min(first + 999, #wanted)
    for number = ids.number - 1, ids.number do
      local some
      if number == 0 then
        some = redis.call('MGET', unpack(wanted, first, last))
      else
        some = redis.call('HMGET', id_key(ids.kind, number), unpack(wanted, first, last))
      end
      for index = 1, last - first + 1 do
        local value = some[index]
        if value then
          found[wanted[first + index - 1]] = number == 0 and value or read_id(value, now)
        end
      end
    end
  end
end

-- See that this generation lasts for long enough; begin the next one, if it has.
local function turn_ids(ids, now)
  local longest = ids.longest
  if not ids.is_new and now >= ids.till then
    redis.call('UNLINK', id_key(ids.kind, ids.number - 1))
    ids.number, ids.longest = ids.number + 1, ids.window
    ids.till = now + math.max(longest, ids.window)
  elseif ids.window > longest then
    ids.longest, ids.till, ids.is_new = ids.window, math.max(ids.till, now + ids.window), false
  else
    return
  end
  local words = table.concat({text(ids.number), text(ids.till), text(ids.longest)}, ' ')
  redis.call('HSET', SHARD, 'ids:' .. ids.kind, words)
end

-- Keep what was stored: the names and values in turn.
local function keep_ids(ids, now)
  local stored = ids.stored
  if #stored == 0 then return end
  turn_ids(ids, now)
  local key = id_key(ids.kind, ids.number)
  for first = 1, #stored, 1000 do
    redis.call('HSET', key, unpack(stored, first, math.min(first + 999, #stored)))
  end
end

-- An id that moves --------------------------------------------------------------------------------

local function is_id(name) return string.find(name, '^{%d+}d:') ~= nil end

-- Its kind, and the number of the generation.
local function place_of(name)
  local length, after = string.match(name, '^{%d+}d:(%d+):()')
  local kind = string.byte(name, after + length) == 126 and 'r' or 'n' -- ~
  return kind, tonumber(string.match(redis.call('HGET', SHARD, 'ids:' .. kind) or '1', '^%d+'))
end

-- What is copied of it, and for how long that is good; as DUMP and PTTL if it is gone.
local function dump_id(name, now)
  local kind, newest = place_of(name)
  for number = newest, math.max(newest - 1, 1), -1 do
    local value = redis.call('HGET', id_key(kind, number), name)
    local words, till = read_id(value or '', now)
    if words then return words, math.max(1, till - now) end
  end
  return redis.call('GET', name), redis.call('PTTL', name)
end

local function drop_id(name)
  local kind, newest = place_of(name)
  local count = redis.call('UNLINK', name)
  for number = math.max(newest - 1, 1), newest do
    count = count + redis.call('HDEL', id_key(kind, number), name)
  end
  return math.min(1, count)
end

-- *payload* is of dump_id here, or DUMP's from a shard with the library before.
local function import_id(name, payload, ttl, now)
  if payload == '' or ttl == 0 then return drop_id(name) end
  if not string.find(payload, '^%d') then
    redis.call('RESTORE', name, text(ttl), payload, 'REPLACE')
    payload = redis.call('GET', name)
    redis.call('UNLINK', name)
  end
  local kind = place_of(name)
  local ids = ids_of_kind(kind, redis.call('HGET', SHARD, 'ids:' .. kind), ttl)
  ids.stored = {name, payload .. ' ' .. text(now + ttl)}
  keep_ids(ids, now)
end

-- Where to go on with a scan of all ids, from a generation of a kind on: a cursor as scan_ids takes
-- and gives it; '0' at their end.
local function ids_from(place, number)
  for index = place, #KINDS do
    local words = redis.call('HGET', SHARD, 'ids:' .. KINDS[index])
    local newest = words and tonumber(string.match(words, '^%d+')) or 0
    number = math.max(number, newest - 1, 1)
    if number <= newest then return table.concat({index, text(number), '0'}, ':') end
    number = 1
  end
  return '0'
end

-- Some names of ids from *cursor* on, and the next cursor; nothing if it is none of ours.
local function scan_ids(cursor, count)
  local place, number, inner = string.match(cursor, '^(%d+):(%d+):(%d+)$')
  if not place then return nil end
  local found = redis.call('HSCAN', id_key(KINDS[tonumber(place)], number), inner, 'COUNT', count)
  local names, following = {}, found[1]
  for index = 1, #found[2], 2 do names[#names + 1] = found[2][index] end
  if following == '0' then return names, ids_from(tonumber(place), number + 1) end
  return names, table.concat({place, number, following}, ':')
end
