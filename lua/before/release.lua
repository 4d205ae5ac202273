#!lua flags=allow-oom
--[[ release: give the units of closed orders back, each once.

KEYS
  1 sale    hash    epoch, state, available, seq
  2 buyers  hash    user -> units held or bought, orders made
  3 orders  hash    order_id -> user, quantity, seq, reserved_ms, held or released
  4 stream  stream  what the persister reads
ARGV
  1 epoch
  then pairs: order_id (16 bytes), the seq that reserved it (at most 256 pairs)
ANSWERS
  NOT_LOADED | STALE_EPOCH | SETTLED for the whole batch
  for each pair one of RELEASED seq balance | ALREADY | UNKNOWN
]]
local sale, buyers, orders, stream = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local epoch = ARGV[1]

local rules = redis.call('HMGET', sale, 'epoch', 'state', 'available', 'seq', 'price_minor', 'skew_ms')
local state = rules[2]
if not rules[1] or not state or state == 'loading' or state == 'recovering' then return { 'NOT_LOADED' } end
if rules[1] ~= epoch then return { 'STALE_EPOCH' } end
if state == 'settled' then return { 'SETTLED' } end

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000) + tonumber(rules[6])
local available, seq, price_minor = tonumber(rules[3]), tonumber(rules[4]), rules[5]
redis.call('XLEN', stream)

local entry_of, holding_of, events = {}, {}, {}

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
  events[#events + 1] = { seq, order_id, user, quantity, delta, available }
  return 'RELEASED ' .. seq .. ' ' .. available
end

local answers = {}
for i = 2, #ARGV, 2 do answers[#answers + 1] = answer(ARGV[i], ARGV[i + 1]) end
if #events == 0 then return answers end

-- Every check is above this line and every write below it: Redis does not roll a script back. The stream comes first,
-- because it is the one write that can still be refused (an id that is not above its last one).
for _, event in ipairs(events) do
  redis.call('XADD', stream, event[1] .. '-0', 'kind', 'released', 'order', event[2], 'user', event[3],
    'quantity', event[4], 'delta', event[5], 'balance', event[6], 'price', price_minor, 'at', now_ms)
end
for order_id, entry in pairs(entry_of) do redis.call('HSET', orders, order_id, entry) end
for user, holding in pairs(holding_of) do redis.call('HSET', buyers, user, holding) end
redis.call('HSET', sale, 'seq', seq, 'available', available)
return answers
