
-- Part of the library (see functions.lua): who is in which room, and through which edges.
--
-- A room's people ('{b}p:room') are a sorted set by the number of their join; a status that is not
-- 'online' is in '{b}s:room'. A user's links ('{b}c:room') are [edge, connection, edge, ...]; who has
-- none any more is in GONE by the time when the grace is over. An edge's lease covers its links: who
-- has one is in the edge's own set, so that a dead edge is swept in steps of a bounded size.

local LEASES, EDGES, DEAD, EDGE = 'roomful:leases', 'roomful:edges', 'roomful:dead', 'roomful:edge:'
local GONE, COUNTS = 'roomful:gone', 'roomful:counts'
local COUNTS_MS = 1000 -- a large room hears its count at most so often
local POSTPONE_MS = 250 -- a bucket that moves now is looked at again after this

-- One user in one room, as a member of the sets of the shard; both ways.
local function entry_of(people, user) return #people .. ':' .. people .. user end

local function parse_entry(entry)
  local colon = string.find(entry, ':', 1, true)
  local length = tonumber(string.sub(entry, 1, colon - 1))
  return string.sub(entry, colon + 1, colon + length), string.sub(entry, colon + length + 1)
end

local function cast(room, event, body, except)
  local kept = '\198' .. struct.pack('>I4', #body) .. body
  local but = except and cmsgpack.pack(except) or '\192'
  local words = '\149\1' .. cmsgpack.pack(event) .. kept .. but .. '\194'
  redis.call('PUBLISH', 'r:' .. room, words)
end

-- Tell the room of a join or a leave; a large one only hears its count, later.
local function tell(people, event, user, status, now, limit)
  if redis.call('ZCARD', people) > limit then
    redis.call('SADD', COUNTS, people)
    return
  end
  local _, room = split(people)
  local body = '{"userId":' .. cjson.encode(user) .. ',"roomId":' .. cjson.encode(room)
  if status then body = body .. ',"status":' .. cjson.encode(status) end
  cast(room, event, body .. ',"timestamp":' .. text(now) .. '}', user)
end

local function keys_of(people)
  local tag, room = split(people)
  return tag .. 's:' .. room, tag .. 'c:' .. room
end

local function links_of(people, user)
  local _, key = keys_of(people)
  local packed = redis.call('HGET', key, user)
  return packed and cmsgpack.unpack(packed)
end

local function set_links(people, user, links)
  local _, key = keys_of(people)
  redis.call('HSET', key, user, cmsgpack.pack(links))
end

local function remove(people, user, now, limit)
  local statuses, links = keys_of(people)
  redis.call('HDEL', links, user)
  redis.call('ZREM', people, user)
  redis.call('HDEL', statuses, user)
  tell(people, 'user-left', user, nil, now, limit)
end

-- Take the links of *edge* out (all, or that of *connection*); the user goes with the last one.
local function unlink(people, user, links, edge, connection, grace, now, limit)
  local left, is_there, is_found = {}, false, false
  for index = 1, #links, 2 do
    if links[index] == edge and (connection == nil or links[index + 1] == connection) then
      is_found = true
    else
      is_there = is_there or links[index] == edge
      left[#left + 1], left[#left + 2] = links[index], links[index + 1]
    end
  end
  if not is_found then return 0 end
  if not is_there then redis.call('SREM', EDGE .. edge, entry_of(people, user)) end
  if #left == 0 and grace <= 0 then
    remove(people, user, now, limit)
    return 1
  end
  if #left == 0 then redis.call('ZADD', GONE, text(now + grace), entry_of(people, user)) end
  set_links(people, user, left)
  return 1
end

-- Add the count, and the members with their statuses if there are at most *limit*, to *reply*.
local function list(reply, people, limit)
  local count = redis.call('ZCARD', people)
  reply[#reply + 1] = count
  if count > limit or count == 0 then return reply end
  local named, status = redis.call('ZRANGE', people, 0, -1), {}
  local set = redis.call('HGETALL', (keys_of(people)))
  for index = 1, #set, 2 do status[set[index]] = set[index + 1] end
  for _, user in ipairs(named) do
    reply[#reply + 1], reply[#reply + 2] = user, status[user] or 'online'
  end
  return reply
end

local function join(keys, args)
  local term, version, edge, connection, user, status = unpack(args)
  local people, limit, shown, now = keys[1], tonumber(args[7]), tonumber(args[8]), now_ms()
  local seq, refusal = admit(term, people, version, now)
  if refusal then return refusal end
  if not redis.call('ZSCORE', LEASES, edge) then return refuse('NO_LEASE') end
  local links, entry = links_of(people, user), entry_of(people, user)
  if not links then
    links = {}
    redis.call('ZADD', people, redis.call('HINCRBY', 'roomful:shard', 'joins', 1), user)
    if status ~= 'online' then redis.call('HSET', (keys_of(people)), user, status) end
    tell(people, 'user-joined', user, status, now, limit)
  elseif #links == 0 then
    redis.call('ZREM', GONE, entry)
  end
  for index = 1, #links, 2 do
    if links[index] == edge and links[index + 1] == connection then
      return list({seq}, people, shown)
    end
  end
  links[#links + 1], links[#links + 2] = edge, connection
  set_links(people, user, links)
  redis.call('SADD', EDGE .. edge, entry)
  return list({seq}, people, shown)
end

local function leave(keys, args)
  local term, version, edge, connection, user, grace, limit = unpack(args)
  local people, now = keys[1], now_ms()
  local _, refusal = admit(term, people, version, now)
  if refusal then return refusal end
  local links = links_of(people, user)
  if not links then return 0 end
  return unlink(people, user, links, edge, connection, tonumber(grace), now, tonumber(limit))
end

local function set_status(keys, args)
  local term, version, user, status = unpack(args)
  local people = keys[1]
  local _, refusal = admit(term, people, version, now_ms())
  if refusal then return refusal end
  if not redis.call('ZSCORE', people, user) then return 0 end
  local statuses = keys_of(people)
  if status == 'online' then
    redis.call('HDEL', statuses, user)
  else
    redis.call('HSET', statuses, user, status)
  end
  return 1
end

local function members(keys, args)
  local _, refusal = admit(args[1], keys[1], nil, now_ms())
  return refusal or list({}, keys[1], tonumber(args[2]))
end

-- Edges ------------------------------------------------------------------------------------------

-- Take or renew the lease of *edge*. One that was swept is over for good: the edge takes a new name
-- and joins everything again, because nobody knows what of the old one is left.
local function lease(_, args)
  local term, edge, is_new, ttl, about = unpack(args)
  local _, refusal = at_term(term)
  if refusal then return refusal end
  local is_known = redis.call('ZSCORE', LEASES, edge)
  if is_new == '1' and (is_known or redis.call('SISMEMBER', DEAD, edge) == 1) then
    return refuse('LEASE_TAKEN')
  end
  if is_new ~= '1' and not is_known then return refuse('NO_LEASE') end
  redis.call('ZADD', LEASES, text(now_ms() + ttl), edge)
  redis.call('HSET', EDGES, edge, about)
  return 1
end

-- End a lease now, as the edge's own last act: its links are swept as a dead edge's are.
local function end_lease(_, args)
  local _, refusal = at_term(args[1])
  if refusal then return refusal end
  if redis.call('ZREM', LEASES, args[2]) == 0 then return 0 end
  redis.call('HDEL', EDGES, args[2])
  return redis.call('SADD', DEAD, args[2])
end

local function edges()
  local now, reply = now_ms(), {}
  local alive = redis.call('ZRANGEBYSCORE', LEASES, text(now), '+inf')
  for _, edge in ipairs(alive) do
    -- One that is only known by links that came with a bucket has said nothing.
    local about = redis.call('HGET', EDGES, edge)
    if about then reply[#reply + 1], reply[#reply + 2] = edge, about end
  end
  return reply
end

-- What a sweep does about a user in a room: 'go', 'wait' while the bucket moves, or 'forget'.
local function fate(people, now)
  local key = split(people) .. 'b'
  local bucket = settle(key, redis.call('GET', key), now, true)
  local state = bucket.state
  if state == 'MOVING' then note_key(people, bucket) end
  if state == 'OWNED' or state == 'MOVING' then return 'go' end
  return (state == 'FROZEN' or state == 'IMPORTING') and 'wait' or 'forget'
end

-- Do what is due in one room of many: a key that somebody made something else costs that room what
-- came after it, and nothing to all others.
local function alone(people, step)
  local is_done, why = pcall(step)
  if is_done then return end
  why = type(why) == 'table' and why.err or tostring(why)
  redis.log(redis.LOG_WARNING, 'roomful: not swept: ' .. cjson.encode(people) .. ': ' .. why)
end

local function sweep_edges(now, budget, grace, limit)
  for _, edge in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', text(now), 'LIMIT', 0, 16)) do
    redis.call('ZREM', LEASES, edge)
    redis.call('HDEL', EDGES, edge)
    redis.call('SADD', DEAD, edge)
  end
  local edge = redis.call('SRANDMEMBER', DEAD)
  if not edge then return end
  local waiting = {}
  for _, entry in ipairs(redis.call('SPOP', EDGE .. edge, text(budget))) do
    local people, user = parse_entry(entry)
    alone(people, function()
      local what = fate(people, now)
      local links = what == 'go' and links_of(people, user)
      if links then unlink(people, user, links, edge, nil, grace, now, limit) end
      if what == 'wait' then waiting[#waiting + 1] = entry end
    end)
  end
  for _, entry in ipairs(waiting) do redis.call('SADD', EDGE .. edge, entry) end
  if redis.call('EXISTS', EDGE .. edge) == 0 then redis.call('SREM', DEAD, edge) end
end

local function sweep_gone(now, budget, limit)
  local due = redis.call('ZRANGEBYSCORE', GONE, '-inf', text(now), 'LIMIT', 0, text(budget))
  for _, entry in ipairs(due) do
    local people, user = parse_entry(entry)
    redis.call('ZREM', GONE, entry)
    alone(people, function()
      local what = fate(people, now)
      if what == 'wait' then redis.call('ZADD', GONE, text(now + POSTPONE_MS), entry) end
      -- The bucket may have been away meanwhile, and the user back.
      local links = what == 'go' and links_of(people, user)
      if links and #links == 0 then remove(people, user, now, limit) end
    end)
  end
end

local function sweep_counts(now, budget)
  local last = tonumber(redis.call('HGET', 'roomful:shard', 'counted') or 0)
  if math.abs(now - last) < COUNTS_MS then return end
  local changed = redis.call('SPOP', COUNTS, text(budget))
  if #changed == 0 then return end
  redis.call('HSET', 'roomful:shard', 'counted', text(now))
  for _, people in ipairs(changed) do
    alone(people, function()
      local _, room = split(people)
      local count, what = text(redis.call('ZCARD', people)), fate(people, now)
      if what == 'wait' then redis.call('SADD', COUNTS, people) end
      if what == 'go' then
        local body = '{"roomId":' .. cjson.encode(room) .. ',"count":' .. count .. '}'
        cast(room, 'presence-count', body)
      end
    end)
  end
end

-- Whoever calls it does the shard's housekeeping, at most *budget* steps of each kind.
local function sweep(_, args)
  local budget, grace, limit = tonumber(args[2]), tonumber(args[3]), tonumber(args[4])
  local _, refusal = at_term(args[1])
  if refusal then return refusal end
  local now = now_ms()
  sweep_edges(now, budget, grace, limit)
  sweep_gone(now, budget, limit)
  sweep_counts(now, budget)
  local is_due = redis.call('ZCOUNT', GONE, '-inf', text(now)) > 0
  return (is_due or redis.call('EXISTS', DEAD) == 1) and 1 or 0
end

-- Casts are published on r:room as [1, event, body, except_user or nil, is_volatile].

-- KEYS {b}p:room; term, version, edge, connection, user, status, limit (above it joins are not
-- told), shown (above it members are not named) -> {newest offset, count, user, status, ...};
-- NO_LEASE.
register('roomful_v1_join', join)

-- KEYS {b}p:room; term, version, edge, connection, user, grace_ms, limit -> 1, or 0: was not there.
register('roomful_v1_leave', leave, 'allow-oom')

-- KEYS {b}p:room; term, version, user, status -> 1, or 0: was not there. Tells nobody.
register('roomful_v1_set_status', set_status)

-- KEYS {b}p:room; term, limit -> {count, user, status, ...}.
register('roomful_v1_members', members, 'no-writes')

-- term, edge, is_new (1 or 0), ttl_ms, about -> 1; LEASE_TAKEN, NO_LEASE.
register('roomful_v1_lease', lease, 'allow-oom')

-- term, edge -> 1, or 0: there was none.
register('roomful_v1_end_lease', end_lease, 'allow-oom')

-- -> {edge, about, ...} of those whose lease runs.
register('roomful_v1_edges', edges, 'no-writes')

-- term, budget, grace_ms, limit -> 1 if more is to be done now, else 0. For any edge, each second.
register('roomful_v1_sweep', sweep, 'allow-oom')
