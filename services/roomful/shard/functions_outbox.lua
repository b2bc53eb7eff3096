-- Part four of the library (see functions.lua): what the archiver has to fetch.

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

-- -> {newest offset, offset of the oldest outbox entry (0: none), its age in ms, entries, bytes,
-- newest offset that was stored while the outbox was full}. An entry is of one room and batch:
-- id newest offset-time in ms, r room, p as published. Entries leave it by `archived` only.
register('roomful_v1_outbox', outbox, 'no-writes')

-- bytes of the entries (r and p), their ids (at most 1000) -> how many were there.
register('roomful_v1_archived', archived, 'allow-oom')
