
-- Part of the library (see functions.lua): what was revoked, for edges that come later.
--
-- Every shard keeps all of it, so that any one that answers knows everything. By what was revoked:
-- when it lapses (REVOKED), and the words that edges hear (REVOCATIONS).

local REVOKED, REVOCATIONS = 'roomful:revoked', 'roomful:revocations'
local MAX_REVOCATIONS, LAPSED_STEPS = 100000, 100

local function forget_revocations(subjects)
  for _, subject in ipairs(subjects) do
    redis.call('ZREM', REVOKED, subject)
    redis.call('HDEL', REVOCATIONS, subject)
  end
end

local function revoke(_, args)
  local term, subject, ttl, words = unpack(args)
  local _, refusal = at_term(term)
  if refusal then return refusal end
  local now = now_ms()
  forget_revocations(
    redis.call('ZRANGEBYSCORE', REVOKED, '-inf', text(now), 'LIMIT', 0, LAPSED_STEPS))
  local is_known = redis.call('ZSCORE', REVOKED, subject)
  if not is_known and redis.call('ZCARD', REVOKED) >= MAX_REVOCATIONS then
    forget_revocations(redis.call('ZRANGE', REVOKED, 0, 0))
  end
  redis.call('ZADD', REVOKED, 'GT', text(now + ttl), subject)
  redis.call('HSET', REVOCATIONS, subject, words)
  return redis.call('PUBLISH', 'roomful:control', words)
end

local function revocations(_, args)
  local _, refusal = at_term(args[1])
  if refusal then return refusal end
  local now, page = now_ms(), redis.call('HSCAN', REVOCATIONS, args[2], 'COUNT', args[3])
  local reply = {page[1]}
  for index = 1, #page[2], 2 do
    local lapses = tonumber(redis.call('ZSCORE', REVOKED, page[2][index]) or 0)
    if lapses > now then
      reply[#reply + 1], reply[#reply + 2] = page[2][index + 1], text(lapses - now)
    end
  end
  return reply
end

-- term, subject, ttl_ms (an earlier end does not shorten it), words -> how many heard it. Publishes words on roomful:control. Above MAX_REVOCATIONS the soonest to lapse goes.
register('roomful_v1_revoke', revoke, 'allow-oom')

-- term, cursor ('0' begins), count (about) -> {cursor of the next page ('0': no more), words,
-- ttl_ms, ...}. What is kept throughout comes at least once.
register('roomful_v1_revocations', revocations, 'no-writes')
