#!lua
--[[ reserve: give units to many buyers of one sale in one atomic step, each unit with its event.

KEYS
  1 sale    hash    the rules of the sale, what is left of it, what a recovery holds back
  2 buyers  hash    user -> units held or bought, orders made
  3 orders  hash    order_id -> user, quantity, seq, reserved_ms, held or released
  4 stream  stream  what the persister reads
  5 winners bitmap  a bit for each order ever made, by the end of its id: who need not be told "sold out" from memory
ARGV
  1 epoch
  2 deadline_ms    in Redis time; whoever asked has given up after it
  3 last_order_id  the last order that this caller saw reserved in this epoch, or ''
  4 last_seq       its seq
  5 mode           '', or `honour` for orders that were promised before a loss: no state, window or backlog refuses
                   them, and their units come from what is held back first (for the worker alone)
  then triples: order_id (16 bytes), user, quantity (at most 256 triples)
ANSWERS
  clock_ms, then NOT_LOADED | STALE_EPOCH | BEHIND | LATE for the whole batch
  clock_ms, then for each request one of
  RESERVED seq balance reserved_ms
  REPLAYED seq quantity reserved_ms held|released
  MISMATCH seq quantity held|released | INVALID
  NOT_OPEN seq starts_ms | PAUSED seq | ENDED seq ends_ms | BACKLOG seq
  OVER_LIMIT seq units | SOLD_OUT seq balance
]]
local sale, buyers, orders, stream, winners = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local epoch, deadline_ms, last_order_id, last_seq = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local honours = ARGV[5] == 'honour'

local clock = redis.call('TIME')
local clock_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)

local rules = redis.call('HMGET', sale, 'epoch', 'state', 'starts_ms', 'ends_ms', 'units_per_user', 'orders_per_user',
  'price_minor', 'available', 'seq', 'backlog_max', 'skew_ms', 'winner_bits', 'held_back')
local state = rules[2]
if not rules[1] or not state or state == 'loading' or (state == 'recovering' and not honours) then
  return { clock_ms, 'NOT_LOADED' }
end
if rules[1] ~= epoch then return { clock_ms, 'STALE_EPOCH' } end
if clock_ms > deadline_ms then return { clock_ms, 'LATE' } end
if last_order_id ~= '' then
  local last = redis.call('HGET', orders, last_order_id)
  if not last or string.match(last, '^%S+ %d+ (%d+)') ~= last_seq then return { clock_ms, 'BEHIND' } end
end

local starts_ms, ends_ms = tonumber(rules[3]), tonumber(rules[4])
-- In answers both stand as they were written: Lua would shorten a number of more than 14 digits.
local units_per_user, orders_per_user = tonumber(rules[5]), tonumber(rules[6])
local price_minor, available, seq = rules[7], tonumber(rules[8]), tonumber(rules[9])
local now_ms = clock_ms + tonumber(rules[11])
local winner_bits, held_back = tonumber(rules[12]), tonumber(rules[13])
local backlog_left = tonumber(rules[10]) - redis.call('XLEN', stream)
redis.call('STRLEN', winners)

local order_ids, users = {}, {}
for i = 6, #ARGV, 3 do
  order_ids[#order_ids + 1] = ARGV[i]
  users[#users + 1] = ARGV[i + 1]
end
local entries = redis.call('HMGET', orders, unpack(order_ids))
local holdings = redis.call('HMGET', buyers, unpack(users))
-- All begin with the first order and last as long as the ledger: one that is missing was lost, and limits or repeats
-- with it.
local parts = redis.call('EXISTS', buyers, orders, winners)
if parts ~= 0 and parts ~= 3 then return { clock_ms, 'NOT_LOADED' } end

-- What this batch has changed so far, so that later requests of it see the earlier ones.
local entry_of, units_of, orders_of = {}, {}, {}
local new_entries, new_holdings, new_bits, events = {}, {}, {}, {}

local function refusal_of_state(waiting)
  if honours and state ~= 'settled' then return nil end
  if state == 'ended' or state == 'settled' or now_ms >= ends_ms then return 'ENDED ' .. seq .. ' ' .. rules[4] end
  if state == 'paused' then return 'PAUSED ' .. seq end
  if now_ms < starts_ms then return 'NOT_OPEN ' .. seq .. ' ' .. rules[3] end
  if backlog_left <= waiting then return 'BACKLOG ' .. seq end
  return nil
end

local function answer(i)
  local order_id, user, quantity = order_ids[i], users[i], tonumber(ARGV[5 + 3 * i])
  local entry = entry_of[order_id] or entries[i]
  if entry then
    local buyer, had, had_seq, reserved_ms, status = string.match(entry, '^(%S+) (%d+) (%d+) (%d+) (%a+)$')
    if buyer ~= user or tonumber(had) ~= quantity then
      return 'MISMATCH ' .. had_seq .. ' ' .. had .. ' ' .. status
    end
    return 'REPLAYED ' .. had_seq .. ' ' .. had .. ' ' .. reserved_ms .. ' ' .. status
  end
  if not quantity or quantity < 1 or quantity ~= math.floor(quantity) or quantity > 2147483647 then return 'INVALID' end
  local refusal = refusal_of_state(#events)
  if refusal then return refusal end

  local units, made = units_of[user], orders_of[user]
  if not units and holdings[i] then
    local had_units, had_orders = string.match(holdings[i], '^(%d+) (%d+)$')
    units, made = tonumber(had_units), tonumber(had_orders)
  elseif not units then
    units, made = 0, 0
  end
  if units + quantity > units_per_user or made >= orders_per_user then return 'OVER_LIMIT ' .. seq .. ' ' .. units end
  local from_held = honours and math.min(held_back, quantity) or 0
  local wanted = quantity - from_held
  if available < wanted then return 'SOLD_OUT ' .. seq .. ' ' .. available end

  seq, available, held_back = seq + 1, available - wanted, held_back - from_held
  units_of[user], orders_of[user] = units + quantity, made + 1
  local new_entry = user .. ' ' .. quantity .. ' ' .. seq .. ' ' .. now_ms .. ' held'
  entry_of[order_id] = new_entry
  new_entries[#new_entries + 1] = order_id
  new_entries[#new_entries + 1] = new_entry
  local a, b, c, d = string.byte(order_id, 13, 16)
  new_bits[#new_bits + 1] = (((a * 256 + b) * 256 + c) * 256 + d) % winner_bits
  events[#events + 1] = { seq, order_id, user, quantity, from_held - quantity, available }
  return 'RESERVED ' .. seq .. ' ' .. available .. ' ' .. now_ms
end

local answers = { clock_ms }
for i = 1, #order_ids do answers[i + 1] = answer(i) end
if #events == 0 then return answers end

for user, units in pairs(units_of) do
  new_holdings[#new_holdings + 1] = user
  new_holdings[#new_holdings + 1] = units .. ' ' .. orders_of[user]
end

-- Every check is above this line and every write below it: Redis does not roll a script back. The stream comes first,
-- because it is the one write that can still be refused (an id that is not above its last one).
local kind = honours and 'honoured' or 'reserved'
for _, event in ipairs(events) do
  redis.call('XADD', stream, event[1] .. '-0', 'kind', kind, 'order', event[2], 'user', event[3],
    'quantity', event[4], 'delta', event[5], 'balance', event[6], 'price', price_minor, 'at', now_ms)
end
for _, bit in ipairs(new_bits) do redis.call('SETBIT', winners, bit, 1) end
redis.call('HSET', orders, unpack(new_entries))
redis.call('HSET', buyers, unpack(new_holdings))
redis.call('HSET', sale, 'seq', seq, 'available', available)
if honours then redis.call('HSET', sale, 'held_back', held_back) end
return answers
