
-- Part of the library (see functions.lua): storing messages, and telling them.

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
      class = class, more = false, tag = false, name = false, tail = false, tail_key = false},
      known[key]
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
      local number = room.number + index
      batch.replies[number] = reply(batch.args[room.at + 3 * index], number)
    end
    room = room.more
  end
end

-- Tell the edges that hear the rooms. Nobody hears a replica: what it would get of this is a third of
-- all that it gets, and has the envelopes a second time.
local function tell(batch)
  redis.set_repl(redis.REPL_NONE)
  local told = batch.told
  for index = 1, #told, 2 do redis.call('PUBLISH', told[index], told[index + 1]) end
  redis.set_repl(redis.REPL_ALL)
end

-- Set the room's tail, and at times how long it and the log are kept.
local function keep(batch, room, last, renew)
  local now, slack = batch.now, batch.slack
  local left = renew and renew - now or 0
  if left > 0 and left <= slack then
    -- Offsets never get shorter.
    redis.call('SETRANGE', room.tail_key, '13', last)
    return
  end
  local kept = batch.age + slack
  redis.call('SET', room.tail_key, text(now + slack) .. last, 'PX', text(kept + MEMORY_MS))
  redis.call('PEXPIRE', room.key, text(kept))
  local old = outdated_in(room.tag, outdated(now, batch.age, batch.before), {})
  redis.call('XTRIM', room.key, 'MINID', '=', text(old + 1))
end

-- Name the ids of a room's messages, and say which are to be looked for.
local function want_ids(batch, room)
  local args, names, prefix = batch.args, batch.names, ids_of(room)
  local named, retried = batch.named.wanted, batch.retried.wanted
  while room do
    local number = room.number
    for at = room.at, room.at + 3 * room.count - 1, 3 do
      local identity, name = args[at], false
      if identity ~= '' then
        name = prefix .. identity
        local wanted = string.byte(identity) == 126 and retried or named -- ~
        wanted[#wanted + 1] = name
      end
      names[number], number = name, number + 1
    end
    room = room.more
  end
end

-- Store a message of which nothing is known; gives its offset, or the words of an error.
local function store(batch, log, newest, name, at)
  local args, seq = batch.args, batch.seq + 1
  local offset = text(seq)
  local added = redis.pcall('XADD', log, offset .. '-' .. newest, 'e', args[at + 2])
  if type(added) == 'table' then return 'ERROR ' .. added.err end
  batch.seq = seq
  if name then
    local words = offset .. ' ' .. args[at + 1]
    local ids = string.byte(args[at]) == 126 and batch.retried or batch.named -- ~
    local stored, size = ids.stored, #ids.stored
    stored[size + 1], stored[size + 2] = name, words .. ids.ending
    batch.found[name] = words
  end
  return seq, offset
end

-- Store what is new of a room's messages. Nothing here breaks off but for what is past repair: what
-- was stored is told, whatever comes after it.
local function append(batch, room)
  local args, replies, log, found = batch.args, batch.replies, room.key, batch.found
  local newest, renew = tail(room.tail)
  newest = newest or text(forgotten_in(room.tag, forgotten(batch.now, batch.before), {}))
  -- The publication: its head, and three parts of each message.
  local parts, size, run = {'\147\0', cmsgpack.pack(tonumber(newest)), false}, 3, room
  while run do
    local number = run.number
    for at = run.at, run.at + 3 * run.count - 1, 3 do
      local name = batch.names[number]
      local reply, offset = name and found[name]
      if not reply then reply, offset = store(batch, log, newest, name, at) end
      if offset then
        newest = offset
        parts[size + 1], parts[size + 2], parts[size + 3] = '\146', cmsgpack.pack(reply), args[at + 2]
        size = size + 3
      end
      replies[number], number = reply, number + 1
    end
    run = run.more
  end
  if size == 3 then return end
  parts[3] = array(size / 3 - 1)
  local publication, told = table.concat(parts), batch.told
  told[#told + 1], told[#told + 2] = 'r:' .. room.name, publication
  keep(batch, room, newest, renew)
  redis.call('XTRIM', log, 'MAXLEN', '~', batch.keep)
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
      answer(batch, room, function(_, number)
        local name = batch.names[number]
        return name and batch.found[name] or 'LAGGING'
      end)
    else
      taking[#taking + 1] = room
      while room do count, room = count + room.count, room.more end
    end
  end
  return taking, count
end

-- What the messages of a room will change.
local function note_messages(batch, bucket, room)
  local tag, ids = room.tag, ids_of(room)
  local names = {room.key, tag .. 't:' .. room.name}
  while room do
    for index = 0, room.count - 1 do
      local identity = batch.args[room.at + 3 * index]
      if identity ~= '' then names[#names + 1] = ids .. identity end
    end
    room = room.more
  end
  note(tag, bucket, names)
end

-- The rooms whose buckets take the batch, and how many messages those are; answers the others.
local function admitted(batch, rooms)
  local wanted, open, count = {}, {}, 0
  for index, room in ipairs(rooms) do
    room.tail_key = room.tag .. 't:' .. room.name
    wanted[2 * index - 1], wanted[2 * index] = room.tag .. 'b', room.tail_key
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
        note_messages(batch, bucket, room)
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

-- Store all that is new, and tell it. It may break off midway: then it is told, and known by its ids,
-- up to there; the whole batch is sent again.
local function store_all(batch, rooms)
  local is_whole, why = pcall(function()
    for _, room in ipairs(rooms) do append(batch, room) end
  end)
  keep_ids(batch.named, batch.now)
  keep_ids(batch.retried, batch.now)
  tell(batch)
  if not is_whole then error(why, 0) end
  mark(batch)
  note_outbox(batch)
end

local function publish(keys, args)
  local shard = redis.call('HMGET', SHARD, 'term', 'seq', 'marked', 'outbox', 'ids:n', 'ids:r')
  if shard[1] ~= args[1] then return refuse('STALE_TERM', shard[1] or '0') end
  local now, window = now_ms(), tonumber(args[4])
  local named = ids_of_kind('n', shard[5], window)
  local retried = ids_of_kind('r', shard[6], math.min(window, RETRY_MS))
  named.ending, retried.ending = ' ' .. text(now + window), ' ' .. text(now + retried.window)
  local batch = {args = args, keep = args[2], age = tonumber(args[3]),
    slack = math.floor(tonumber(args[3]) / 8), outbox = false, is_full = false, boxed = 0,
    unarchived = false, now = now, marked = tonumber(shard[3] or 0), before = tonumber(shard[2]),
    replies = {}, told = {}, names = {}, found = {}, named = named, retried = retried}
  local open, count = admitted(batch, by_room(keys, args))
  if batch.before + count > MAX_OFFSET then return refuse('EXHAUSTED') end
  for _, room in ipairs(open) do want_ids(batch, room) end
  find_ids(named, now, batch.found)
  find_ids(retried, now, batch.found)
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
    store_all(batch, open)
  end
  return batch.replies
end

-- KEYS {b}l:room... (each room once is best); term, keep, age_ms, window_ms, outbox ('entries' or
-- 'entries bytes' that it may hold; 0: there is none), classes (one character for each key, or one
-- for all: 1 is required, LAGGING while the outbox is full; 0 is best effort, not archived while
-- it is full; - is off), then for each key version, count, and count times identity ('' or bytes of
-- user:user id), timestamp, envelope
-- -> for each message its offset; or as a string 'offset timestamp' of the first one with that
-- identity; or 'MOVED version to', 'FROZEN retry_ms', 'VERSION version', 'LAGGING', 'ERROR words'.
-- Publishes on r:room the MessagePack [0, offset before, [[offset, envelope], ...]].
register('roomful_v1_publish', publish)
