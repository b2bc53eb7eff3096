-- Part of the library (see functions.lua): what the archiver has to fetch, and what is erased.

local ARCHIVERS = 'archive' -- the outbox's consumer group

-- The outbox: its oldest entry is what nobody has archived, all before it are archived or, up to
-- `unarchived`, were stored while it was full.
local function outbox()
  local shard = redis.call('HMGET', SHARD, 'seq', 'outbox', 'unarchived')
  local oldest = redis.call('XRANGE', OUTBOX, '-', '+', 'COUNT', 1)[1]
  local first, at = 0, now_ms()
  if oldest then first, at = string.match(oldest[1], '(%d+)%-(%d+)') end
  return {tonumber(shard[1] or 0), tonumber(first), math.max(0, now_ms() - tonumber(at)),
    redis.call('XLEN', OUTBOX), tonumber(shard[2] or 0), tonumber(shard[3] or 0)}
end

local function archived(_, args)
  local ids = {unpack(args, 2)}
  redis.call('XACK', OUTBOX, ARCHIVERS, unpack(ids))
  local gone = redis.call('XDEL', OUTBOX, unpack(ids))
  if redis.call('XLEN', OUTBOX) == 0 then
    redis.call('HSET', SHARD, 'outbox', '0')
  else
    -- Two may have archived the same: then it is not exact until the outbox is empty again.
    redis.call('HINCRBY', SHARD, 'outbox', text(-math.floor(args[1] * gone / #ids)))
  end
  return gone
end

-- Who sent an entry, and when; nil of what is no envelope. One is an array of less than 16: room,
-- event, id, user, timestamp, and binaries, which cmsgpack does not know.
local function sender(entry)
  local is_read, _, _, _, _, user, time =
    pcall(cmsgpack.unpack_limit, string.sub(entry[2][2], 2), 5)
  if is_read then return user, tonumber(time) end
end

local function erase(keys, args)
  local term, version, at, offset, user = unpack(args)
  local _, refusal = admit(term, keys[1], version, now_ms())
  if refusal then return refusal end
  local low, high = '-', '+'
  if offset ~= '' then low, high = offset, offset end
  local gone = {}
  for _, entry in ipairs(redis.call('XRANGE', keys[1], low, high)) do
    local by, time = sender(entry)
    if time and time <= tonumber(at) and (user == '' or by == user) then
      gone[#gone + 1] = entry[1]
    end
  end
  for first = 1, #gone, 1000 do
    redis.call('XDEL', keys[1], unpack(gone, first, math.min(first + 999, #gone)))
  end
  return #gone
end

-- -> {newest offset, offset of the oldest outbox entry (0: none), its age in ms, entries, bytes,
-- newest offset that was stored while the outbox was full}. An entry is of one room and batch:
-- id newest offset-time in ms, r room, p as published. Entries leave it by `archived` only.
register('roomful_v1_outbox', outbox, 'no-writes')

-- bytes of the entries (r and p), their ids (at most 1000) -> how many were there.
register('roomful_v1_archived', archived, 'allow-oom')

-- KEYS {b}l:room; term, version, at_ms, offset ('': all), user ('': whoever sent it) -> how many
-- entries went: of that offset and user, with a timestamp up to at_ms.
register('roomful_v1_erase', erase, 'allow-oom')
