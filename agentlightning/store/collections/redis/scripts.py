"""What runs inside the server, each as one indivisible step: reading, claiming and committing.

The commit gets a program: checks first, each one letter and its operands, then writes. Nothing is
written unless every check holds, and a check that fails is named by its number. Since Redis does
not undo a script that breaks off, whatever could break one off is refused before it is sent.
"""

from __future__ import annotations

import hashlib
from typing import Final


class Script:
    """A Lua script and the name under which the server remembers it."""

    def __init__(self, *parts: str) -> None:
        self.source = "\n".join(parts)
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


_FIND_ROLLOUT = """
local base = KEYS[1]
local function top(index, tbl)
  local entry = redis.call('ZREVRANGE', base .. index, 0, 0)[1]
  if not entry then return '', false end
  return entry, redis.call('HGET', base .. tbl, string.sub(entry, 17))
end
local function find_rollout(id)
  local entry, attempt = top('attempts:of:' .. id, 'attempts')
  return {
    redis.call('HGET', base .. 'rollouts', id), entry, attempt,
    redis.call('HGET', base .. 'counters', id)
  }
end
"""

FIND: Final = Script(
    _FIND_ROLLOUT,
    """
local found = {}
for i = 1, #ARGV do found[i] = find_rollout(ARGV[i]) end
return found
""",
)
"""For each rollout id: the rollout, its latest attempt's entry and record, and its counter."""

LATEST: Final = Script(
    _FIND_ROLLOUT,
    """
local found = {}
for i = 1, #ARGV do found[i] = {top('attempts:of:' .. ARGV[i], 'attempts')} end
return found
""",
)
"""For each rollout id: its latest attempt's entry and record."""

TOP: Final = Script(_FIND_ROLLOUT, "return {top(ARGV[1], ARGV[2])}")
"""The last entry of an index, and its record."""

PAGE: Final = Script("""
local index, tbl = KEYS[1] .. ARGV[1], KEYS[1] .. ARGV[2]
local offset, limit, records = tonumber(ARGV[3]), tonumber(ARGV[4]), {}
local total = redis.call('ZCARD', index)
local last = total - 1
if limit >= 0 then last = math.min(last, offset + limit - 1) end
if last < offset then return {total, {}, {}} end
local entries = {}
if ARGV[5] == '0' then
  entries = redis.call('ZRANGE', index, offset, last)
else
  local rows = redis.call('ZREVRANGE', index, offset, last, 'WITHSCORES')
  local first = redis.call('ZCOUNT', index, '(' .. rows[2], '+inf')
  local final = redis.call('ZCOUNT', index, rows[#rows], '+inf') - 1
  if first ~= offset or final ~= last then
    rows = redis.call('ZREVRANGE', index, first, final, 'WITHSCORES')
  end
  local at, place, count = 1, first, #rows / 2
  while at <= count do
    local stop = at
    while stop < count and rows[2 * stop + 2] == rows[2 * at] do stop = stop + 1 end
    for other = stop, at, -1 do
      if place >= offset and place <= last then
        entries[#entries + 1] = rows[2 * other - 1]
      end
      place = place + 1
    end
    at = stop + 1
  end
end
if ARGV[6] == '1' then
  for i, entry in ipairs(entries) do
    records[i] = redis.call('HGET', tbl, string.sub(entry, 17))
  end
end
return {total, entries, records}
""")
"""How many entries an index has, those of one page, and their records.

From the end, the page is widened until it holds all entries with the scores at its two ends, so
that equal ones can be put in order of insertion. Arguments: the index and its table, the offset,
the limit or -1, 1 to begin at the end, 1 for the records.
"""

CLAIM: Final = Script(
    _FIND_ROLLOUT,
    """
local now, limit, cursor = tonumber(ARGV[1]), tonumber(ARGV[3]), ARGV[4]
local page = math.min(math.max(limit, 64), 1000)
local free, held = {}, {}
while #free < limit and #held < 1000 do
  local entries = redis.call(
    'ZRANGEBYSCORE', base .. 'queue', '(' .. cursor, '+inf', 'LIMIT', 0, page)
  if #entries == 0 then break end
  for _, entry in ipairs(entries) do
    if #free >= limit then break end
    local id = string.sub(entry, 17)
    local ends = redis.call('HGET', base .. 'held', id)
    if ends and tonumber(ends) > now then
      held[#held + 1] = entry
    else
      free[#free + 1] = entry
      redis.call('HSET', base .. 'held', id, ARGV[2])
    end
    cursor = string.sub(entry, 1, 16)
  end
end
local given, reserved = free, 1
if #free == 0 then
  given, reserved = {}, 0
  for i = 1, math.min(#held, limit) do given[i] = held[i] end
end
local found = {}
for i, entry in ipairs(given) do found[i] = find_rollout(string.sub(entry, 17)) end
return {reserved, given, found}
""",
)
"""Entries of the queue beyond a cursor, reserved for a moment, and their rollouts as by FIND.

Entries that somebody else has reserved are left out, unless there are no others: then they are
given without a reservation, and the commit decides. Arguments: now and the end of the
reservation in milliseconds, the limit, the cursor.
"""

RESERVE: Final = Script("""
local now, found = tonumber(ARGV[1]), {}
for i = 3, #ARGV do
  local ends = redis.call('HGET', KEYS[1] .. 'held', ARGV[i])
  if ends and tonumber(ends) > now then
    found[i - 2] = 0
  else
    redis.call('HSET', KEYS[1] .. 'held', ARGV[i], ARGV[2])
    found[i - 2] = 1
  end
end
return found
""")
"""Reserve ids of the queue, each unless somebody else has: 1 or 0. Times as for CLAIM."""

SPAN_BYTES: Final = Script("""
local found = {}
for i, owner in ipairs(ARGV) do
  local bytes = 0
  for _, entry in ipairs(redis.call('ZRANGE', KEYS[1] .. 'spans:of:' .. owner, 0, -1)) do
    bytes = bytes + redis.call('HSTRLEN', KEYS[1] .. 'spans', string.sub(entry, 17))
  end
  found[i] = bytes
end
return found
""")
"""For each rollout id: how many bytes its spans take."""

COMMIT: Final = Script("""
local base, token, kept, lifetime = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local before = redis.call('GET', base .. 'done:' .. token)
if before then return {1, string.match(before, '^(%d+) (%d+)')} end
local program, at, number = cjson.decode(ARGV[4]), 1, 0
local function take()
  at = at + 1
  return program[at - 1]
end
local meta = base .. 'meta'
local checks = {
  V = function()
    local raw = redis.call('HGET', base .. take(), take())
    return (raw and string.match(raw, '^%d+') or '') == take()
  end,
  T = function()
    local entry = redis.call('ZREVRANGE', base .. take(), 0, 0)[1]
    return (entry or '') == take()
  end,
  R = function()
    local revision = redis.call('HGET', meta, 'rev:' .. take())
    return (revision or '0') == take()
  end,
  K = function()
    local value = redis.call('HGET', base .. 'counters', take())
    return (value or '') == take()
  end,
  Q = function()
    return redis.call('ZSCORE', base .. 'queue', take()) ~= false
  end,
  Z = function()
    local places = redis.call('HGET', base .. 'queued', take())
    return (places or '') == take()
  end,
  N = function()
    return redis.call('EXISTS', base .. 'reply:' .. take()) == 0
  end,
}
while program[at] ~= 'GO' do
  number = number + 1
  if not checks[take()]() then return {0, number} end
end
at = at + 1
local commit = redis.call('HINCRBY', meta, 'commit', 1)
local version = string.format('%.0f', commit)
local seq = 0
local function place()
  return string.format('%016.0f', redis.call('HINCRBY', meta, 'ordinal', 1))
end
local function leave(entry)
  for _ = 1, take() do redis.call('ZREM', base .. take(), entry) end
end
local writes = {
  W = function()
    local tbl, key, payload, ordinal = take(), take(), take(), take()
    if ordinal == '' then ordinal = place() end
    local entry = ordinal .. key
    redis.call('HSET', base .. tbl, key, version .. ':' .. ordinal .. ':' .. payload)
    leave(entry)
    for _ = 1, take() do
      local index, score = take(), take()
      if score == '' then score = ordinal end
      redis.call('ZADD', base .. index, score, entry)
    end
  end,
  D = function()
    local tbl, key, ordinal = take(), take(), take()
    redis.call('HDEL', base .. tbl, key)
    leave(ordinal .. key)
  end,
  O = function()
    local tbl, owner = base .. take(), take()
    for _, entry in ipairs(redis.call('ZRANGE', tbl .. ':of:' .. owner, 0, -1)) do
      redis.call('HDEL', tbl, string.sub(entry, 17))
      redis.call('ZREM', tbl .. ':order', entry)
    end
    redis.call('DEL', tbl .. ':of:' .. owner)
  end,
  B = function()
    redis.call('HINCRBY', meta, 'rev:' .. take(), 1)
  end,
  C = function()
    redis.call('HSET', base .. 'counters', take(), take())
  end,
  M = function()
    local key, value = take(), take()
    local present = redis.call('HGET', base .. 'counters', key)
    if not present or tonumber(present) < tonumber(value) then
      redis.call('HSET', base .. 'counters', key, value)
    end
  end,
  X = function()
    redis.call('HDEL', base .. 'counters', take())
  end,
  E = function()
    local id, once = take(), take()
    local places = redis.call('HGET', base .. 'queued', id)
    if places and once == '1' then return end
    local ordinal = place()
    redis.call('ZADD', base .. 'queue', ordinal, ordinal .. id)
    redis.call('HSET', base .. 'queued', id, (places and places .. ' ' or '') .. ordinal)
  end,
  U = function()
    local entry = take()
    local ordinal, id = string.sub(entry, 1, 16), string.sub(entry, 17)
    redis.call('ZREM', base .. 'queue', entry)
    redis.call('HDEL', base .. 'held', id)
    local left = {}
    for other in string.gmatch(redis.call('HGET', base .. 'queued', id) or '', '%d+') do
      if other ~= ordinal then left[#left + 1] = other end
    end
    if #left == 0 then redis.call('HDEL', base .. 'queued', id)
    else redis.call('HSET', base .. 'queued', id, table.concat(left, ' ')) end
  end,
  H = function()
    redis.call('HDEL', base .. 'held', take())
  end,
  S = function()
    seq = redis.call('HINCRBY', meta, 'seq', 1)
    redis.call('XADD', base .. 'events', 'MAXLEN', '~', kept,
      string.format('%.0f-0', seq), 'e', take(), 'w', take())
  end,
  P = function()
    redis.call('SET', base .. 'reply:' .. take(), take(), 'EX', take())
  end,
}
local length = #program
while at <= length do writes[take()]() end
local last = string.format('%.0f', seq)
redis.call('SET', base .. 'done:' .. token, version .. ' ' .. last, 'EX', lifetime)
return {1, version, last}
""")
"""Check, then write. Arguments: the commit's own id, how many events to keep, for how many seconds
to know the id again, and a JSON list of checks, `GO`, and writes. Returns {1, version, last seq},
or {0, number of the check that failed}."""
