"""What is done to an asynchronous call in one step, as scripts of the store (Lua): whoever is
killed leaves it before such a step or after it, never between.

A call's hash (``keys.call``):

    call, body, body_file   JSON Call without its body; the body: here where it is small, else in
                            the file of that name (gateway/bodies.py); both go when it was answered
    of, size                ``name.namespace``; bytes that it takes of the queue, while it waits
    state, reason           CallState, and why
    attempts, retries       how often it was begun, and how often it failed in this series
    created, started, finished, next
                            RFC 3339; ``next``: of the next attempt
    cancelled               it is to end, though it runs
    status, headers, answer, answer_file, length, seconds
                            of the last answer, as of the body; ``length``: its bytes
    tell                    its callback was not told yet: the entry of the stream is kept so long
    kept, until             bytes that it takes of what is kept, and until when (Unix time)

The hash is in exactly one place: the queue (CALLS, parked, CALLS_DUE), CALLS_KEPT, DEAD_LETTERS.
An entry of the stream is what a worker may act on: two who have it cannot both take it away.
"""

from __future__ import annotations

from core import keys

OVERHEAD = 1024
"""Bytes that a call takes in the store beside its own: so many small ones are bounded as well."""
_PLACES = {
    "CALLS": keys.CALLS,
    "SIZE": keys.CALLS_SIZE,
    "SIZES": keys.CALLS_SIZES,
    "DUE": keys.CALLS_DUE,
    "KEPT": keys.CALLS_KEPT,
    "KEPT_SIZE": keys.CALLS_KEPT_SIZE,
    "DEAD": keys.DEAD_LETTERS,
    "DEAD_SIZE": keys.DEAD_LETTERS_SIZE,
    "CALL": keys.CALL,
}
_COMMON = (
    "".join(f"local {name} = '{key}'\n" for name, key in _PLACES.items())
    + f"local OVERHEAD = {OVERHEAD}"
    + """
local R = redis.call
local MOST = 500  -- that go in one step: nobody else is served meanwhile

local function owner(of) return string.match(of, '%.[^.]*$') end  -- no function has that name

local function refused(of, size, bound)
  local all, own = tonumber(R('GET', SIZE) or 0), tonumber(R('HGET', SIZES, of) or 0)
  local owners = tonumber(R('HGET', SIZES, owner(of)) or 0)
  if all + size > tonumber(bound) then return {'all', all} end
  if own > 0 and own + size > bound / 4 then return {'own', own} end
  if owners > 0 and owners + size > bound / 2 then return {'owner', owners} end
end

local function enqueue(id, of, size)
  R('HSET', CALL .. id, 'size', size)
  R('INCRBY', SIZE, size)
  for _, whose in ipairs({of, owner(of)}) do R('HINCRBY', SIZES, whose, size) end
  R('XADD', CALLS, '*', 'id', id)
end

local function give_back(id)  -- what it takes of the queue; once
  local size, of = unpack(R('HMGET', CALL .. id, 'size', 'of'))
  if not size then return 0 end
  R('HDEL', CALL .. id, 'size')
  R('DECRBY', SIZE, size)
  for _, whose in ipairs({of, owner(of)}) do
    if R('HINCRBY', SIZES, whose, -size) <= 0 then R('HDEL', SIZES, whose) end
  end
  return size
end

local function has(entry)
  return #R('XRANGE', CALLS, entry, entry) == 1
end

local function forget(entry)
  R('XACK', CALLS, CALLS, entry)
  R('XDEL', CALLS, entry)
end

local function keep(id, set, total, size, till)
  R('HSET', CALL .. id, 'kept', size, 'until', till)
  R('ZADD', set, till, id)
  R('INCRBY', total, size)
end

local function files(id)
  local found = {}
  for _, name in ipairs(R('HMGET', CALL .. id, 'body_file', 'answer_file')) do
    if name then table.insert(found, name) end
  end
  return found
end

local function drop(id, set, total)  -- returns the names of its files
  local gone = files(id)
  R('ZREM', set, id)
  R('DECRBY', total, R('HGET', CALL .. id, 'kept') or 0)
  R('DEL', CALL .. id)
  return gone
end

local function postpone(id, set, till)
  R('ZADD', set, till, id)
  R('HSET', CALL .. id, 'until', till)
end

local function trim(set, total, now, bytes, number, spare, gone)
  local postponed
  for _ = 1, MOST do
    local oldest, till = unpack(R('ZRANGE', set, 0, 0, 'WITHSCORES'))
    local held = tonumber(R('GET', total) or 0)
    if not oldest or oldest == spare then return end
    if tonumber(till) > tonumber(now) and held <= tonumber(bytes)
        and R('ZCARD', set) <= tonumber(number) then return end
    if oldest == postponed then return end  -- all of them
    if R('HEXISTS', CALL .. oldest, 'tell') == 1 then  -- its answer is still to be posted
      postponed = postponed or oldest
      postpone(oldest, set, math.max(now + 60, R('ZRANGE', set, -1, -1, 'WITHSCORES')[2]))
    else
      for _, name in ipairs(drop(oldest, set, total)) do table.insert(gone, name) end
    end
  end
end
"""
)

ADD = (
    _COMMON
    + """
local id, call, body, body_file, sent, of, size, bound, now = unpack(ARGV)
if R('EXISTS', CALL .. id) == 1 then return {'', 0} end
local told = refused(of, size, bound)
if told then return told end
R('HSET', CALL .. id, 'call', call, 'sent', sent, 'of', of, 'state', 'queued', 'created', now)
R('HSET', CALL .. id, unpack(body_file == '' and {'body', body} or {'body_file', body_file}))
enqueue(id, of, size)
return {'', 0}
"""
)
"""The same call once more changes nothing: the client may repeat what had no answer."""

BEGIN = (
    _COMMON
    + """
local entry, id, now = unpack(ARGV)
local state, cancelled = unpack(R('HMGET', CALL .. id, 'state', 'cancelled'))
if not has(entry) or (state ~= 'queued' and state ~= 'running') then return 0 end
if cancelled then return -1 end
R('HSET', CALL .. id, 'state', 'running')
R('HSETNX', CALL .. id, 'started', now)
R('HDEL', CALL .. id, 'next')
return R('HINCRBY', CALL .. id, 'attempts', 1)
"""
)

RETRY = (
    _COMMON
    + """
local entry, id, due, due_text, status, reason = unpack(ARGV)
local state, cancelled = unpack(R('HMGET', CALL .. id, 'state', 'cancelled'))
if cancelled or state ~= 'running' or not has(entry) then return 0 end
forget(entry)
R('HINCRBY', CALL .. id, 'retries', 1)
R('HSET', CALL .. id, 'state', 'queued', 'next', due_text, 'status', status, 'reason', reason)
R('ZADD', DUE, due, id)
return 1
"""
)

MOVE_DUE = (
    _COMMON
    + """
local now, latest = unpack(ARGV)
local moved = 0
for _, range in ipairs({{'-inf', now}, {'(' .. latest, '+inf'}}) do
  for _, id in ipairs(R('ZRANGE', DUE, range[1], range[2], 'BYSCORE', 'LIMIT', 0, MOST)) do
    R('ZREM', DUE, id)
    R('XADD', CALLS, '*', 'id', id)
    moved = moved + 1
  end
end
return moved
"""
)
"""Also those beyond the longest wait there is: the clock was wrong when they were put there."""

SETTLE = (
    _COMMON
    + """
local entry, id, state, reason, tell, dead = unpack(ARGV, 1, 6)
local status, headers, answer, answer_file, length, seconds = unpack(ARGV, 7, 12)
local text, now, till, bytes, dead_till, dead_bytes, dead_number = unpack(ARGV, 13, 19)
local r, gone = CALL .. id, {}
local was, cancelled, ours = unpack(R('HMGET', r, 'state', 'cancelled', 'answer_file'))
if ours and ours == answer_file then return {1} end
if not has(entry) or (was ~= 'running' and was ~= 'queued') then return {0} end
local size = give_back(id)
R('HDEL', r, 'next', 'cancelled')
if cancelled then
  state, reason, tell, dead, length = 'failed', 'cancelled', '', '', 0
  R('HDEL', r, 'status')
else
  R('HSET', r, 'status', status, 'headers', headers, 'length', length, 'seconds', seconds)
  R('HSET', r, unpack(answer_file == '' and {'answer', answer} or {'answer_file', answer_file}))
end
R('HSET', r, 'state', state, 'reason', reason, 'finished', text)
if tell == '' then forget(entry) else R('HSET', r, 'tell', 1) end
if dead ~= '' then
  keep(id, DEAD, DEAD_SIZE, size + length + #headers, dead_till)
  trim(DEAD, DEAD_SIZE, now, dead_bytes, dead_number, id, gone)
else
  local body_file = R('HGET', r, 'body_file')
  if body_file then table.insert(gone, body_file) end
  R('HDEL', r, 'body', 'body_file')
  keep(id, KEPT, KEPT_SIZE, R('HSTRLEN', r, 'call') + #headers + length + OVERHEAD, till)
  trim(KEPT, KEPT_SIZE, now, bytes, math.huge, id, gone)
end
return {cancelled and 2 or 1, unpack(gone)}
"""
)
"""0: it was not this worker's any more; 1: it is settled; 2: it was cancelled meanwhile, and its
answer is dropped. Of a command that was repeated 1 where the answer has a file, else 0: its
callback is told then by whoever finds its entry overdue."""

SET_ASIDE = (
    _COMMON
    + """
local entry, id, reason, text, till = unpack(ARGV)
local r = CALL .. id
forget(entry)
R('HDEL', r, 'tell')
local state = R('HGET', r, 'state')
if state ~= 'queued' and state ~= 'running' then return end
local size = give_back(id)
R('HDEL', r, 'next', 'cancelled')
R('HSET', r, 'state', 'failed', 'reason', reason, 'finished', text)
keep(id, DEAD, DEAD_SIZE, size, till)
"""
)
"""One that cannot be read: of another version, which may come back."""

FORGET = (
    _COMMON
    + """
if ARGV[2] ~= '' then R('HDEL', CALL .. ARGV[2], 'tell') end
forget(ARGV[1])
"""
)

CANCEL = (
    _COMMON
    + """
local id, text, now, till, bytes = unpack(ARGV)
local r, gone = CALL .. id, {}
local state = R('HGET', r, 'state')
if state == 'running' then R('HSET', r, 'cancelled', 1) end
if state == 'failed' and R('HGET', r, 'reason') == 'cancelled' then return {'queued'} end
if state ~= 'queued' then return {state or ''} end
R('ZREM', DUE, id)
give_back(id)
gone = files(id)
R('HDEL', r, 'next', 'status', 'body', 'body_file')
R('HSET', r, 'state', 'failed', 'reason', 'cancelled', 'finished', text)
keep(id, KEPT, KEPT_SIZE, R('HSTRLEN', r, 'call') + OVERHEAD, till)
trim(KEPT, KEPT_SIZE, now, bytes, math.huge, id, gone)
return {state, unpack(gone)}
"""
)
"""Returns the state that it was in (``queued``: it is cancelled), and files that are to go."""

REPLAY = (
    _COMMON
    + """
local id, bound = unpack(ARGV)
local r = CALL .. id
if not R('ZSCORE', DEAD, id) then return {R('HGET', r, 'state') or 'absent', 0} end
if R('HEXISTS', r, 'tell') == 1 then return {'telling', 0} end
local of, kept, length = unpack(R('HMGET', r, 'of', 'kept', 'length'))
local size = kept - (length or 0) - #(R('HGET', r, 'headers') or '')
local told = refused(of, size, bound)
if told then return told end
local answer_file = R('HGET', r, 'answer_file')
R('ZREM', DEAD, id)
R('DECRBY', DEAD_SIZE, kept)
R('HDEL', r, 'kept', 'until', 'retries', 'status', 'headers', 'answer', 'answer_file', 'length')
R('HDEL', r, 'seconds', 'finished', 'started', 'reason', 'tell')
R('HSET', r, 'state', 'queued')
enqueue(id, of, size)
return {'', 0, answer_file or nil}
"""
)

REMOVE = (
    _COMMON
    + """
if not R('ZSCORE', DEAD, ARGV[1]) then return {0} end
return {1, unpack(drop(ARGV[1], DEAD, DEAD_SIZE))}
"""
)

SWEEP = (
    _COMMON
    + """
local now, till, bytes, dead_till, dead_bytes, dead_number = unpack(ARGV)
local gone = {}
for set, latest in pairs({[KEPT] = till, [DEAD] = dead_till}) do  -- of a clock that was wrong
  for _, id in ipairs(R('ZRANGE', set, '(' .. latest, '+inf', 'BYSCORE', 'LIMIT', 0, MOST)) do
    postpone(id, set, latest)
  end
end
trim(KEPT, KEPT_SIZE, now, bytes, math.huge, '', gone)
trim(DEAD, DEAD_SIZE, now, dead_bytes, dead_number, '', gone)
return gone
"""
)

PARK = """
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not found then return end
local fields = {}
for i = 1, #found[2], 2 do
  if found[2][i] ~= 'begun' then
    table.insert(fields, found[2][i])
    table.insert(fields, found[2][i + 1])
  end
end
redis.call('XACK', KEYS[1], KEYS[1], ARGV[1])
redis.call('XDEL', KEYS[1], ARGV[1])
redis.call('XADD', KEYS[2], '*', 'begun', ARGV[2], unpack(fields))
redis.call('SADD', KEYS[3], ARGV[3])
"""
UNPARK = """
local found = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
if found then
  redis.call('XADD', KEYS[1], '*', unpack(found[2]))
  redis.call('XDEL', KEYS[2], found[1])
end
if redis.call('XLEN', KEYS[2]) > 0 then return 1 end
redis.call('DEL', KEYS[2])
redis.call('SREM', KEYS[3], ARGV[1])
return 0
"""
