#!lua flags=allow-oom
--[[ release: give the units of closed orders back, each once.

KEYS
  1 sale    hash    epoch, state, available, seq, format
  2 buyers  hash    user -> units held or bought, orders made
  3 orders  hash    order_id -> user, quantity, seq, reserved_ms, held or released
  4 stream  stream  what the persister reads
ARGV
  1 epoch
  then pairs: order_id (16 bytes), the seq that reserved it (at most 256 pairs)
ANSWERS
  NOT_LOADED | STALE_EPOCH | SETTLED for the whole batch (a format that is not known here is NOT_LOADED)
  for each pair one of RELEASED seq balance | ALREADY | UNKNOWN
]]
local sale, buyers, orders, stream = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local epoch = ARGV[1]

local rules = redis.call('HMGET', sale, 'epoch', 'state', 'available', 'seq', 'price_minor', 'skew_ms', 'format')
local state = rules[2]
-- A sale that was loaded by a release which knew one format does not name it.
local format = rules[7] or '1'
if not rules[1] or not state or state == 'loading' or state == 'recovering' then return { 'NOT_LOADED' } end
if rules[1] ~= epoch then return { 'STALE_EPOCH' } end
if format ~= '1' and format ~= '2' then return { 'NOT_LOADED' } end
if state == 'settled' then return { 'SETTLED' } end

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000) + tonumber(rules[6])
local available, seq, price_minor = tonumber(rules[3]), tonumber(rules[4]), rules[5]
redis.call('XLEN', stream)

local entry_of, holding_of, events = {}, {}, {}

-- What the stream is given of an order, in the sale's format; shop/ledger/events.py reads both.
local function event_of(order_id, user, quantity, delta)
  if format == '2' then return order_id .. user .. ' ' .. quantity .. ' ' .. delta .. ' ' .. available .. '\n' end
  return { seq .. '-0', 'kind', 'released', 'order', order_id, 'user', user, 'quantity', quantity, 'delta', delta,
    'balance', available, 'price', price_minor, 'at', now_ms }
end

local function answer(order_id, reserving_seq)
  local entry = entry_of[order_id] or redis.call('HGET', orders, order_id)
  if not entry then return 'UNKNOWN' end
  local user, quantity, had_seq, reserved_ms, status = string.match(entry, '^(%S+) (%d+) (%d+) (%d+) (%a+)$')
  if had_seq ~= reserving_seq then return 'UNKNOWN' end
  if status ~= 'held' then return 'ALREADY' end

  -- After the end the units go to the product, in Postgres: the event says so by its delta of 0.
  local delta = state == 'ended' and 0 or tonumber(quantity)
  seq, available = seq + 1, available + delta
  local units, made = string.match(holding_of[user] or redis.call('HGET', buyers, user), '^(%d+) (%d+)$')
  holding_of[user] = math.max(0, tonumber(units) - tonumber(quantity)) .. ' ' .. made
  entry_of[order_id] = user .. ' ' .. quantity .. ' ' .. had_seq .. ' ' .. reserved_ms .. ' released'
  events[#events + 1] = event_of(order_id, user, quantity, delta)
  return 'RELEASED ' .. seq .. ' ' .. available
end

local answers = {}
for i = 2, #ARGV, 2 do answers[#answers + 1] = answer(ARGV[i], ARGV[i + 1]) end
if #events == 0 then return answers end
-- Redis itself compares the one number of an entry: those of its other events are to be new as well.
if format == '2' and #events > 1 and #redis.call('XRANGE', stream, seq - #events + 1, '+', 'COUNT', 1) > 0 then
  return redis.error_reply('ERR the stream is ahead of the ledger')
end

-- Every check is above this line and every write below it: Redis does not roll a script back. The stream comes first,
-- because it is the one write that can still be refused (an id that is not above its last one).
if format == '2' then
  redis.call('XADD', stream, seq .. '-0', 'released',
    #events .. ' ' .. price_minor .. ' ' .. now_ms .. '\n' .. table.concat(events))
else
  for _, event in ipairs(events) do redis.call('XADD', stream, unpack(event)) end
end
for order_id, entry in pairs(entry_of) do redis.call('HSET', orders, order_id, entry) end
for user, holding in pairs(holding_of) do redis.call('HSET', buyers, user, holding) end
redis.call('HSET', sale, 'seq', seq, 'available', available)
return answers
