#!lua
--[[ load_sale: build the ledger of a new epoch; it sells only after the load was marked in Postgres and opened.

KEYS
  1 sale    hash    all its fields; its `format` holds for the whole epoch
  2 buyers  hash    user -> units held or bought, orders made
  3 orders  hash    order_id -> user, quantity, seq, reserved_ms, held or released
  4 stream  stream  what the persister reads
  5 winners bitmap  a bit for each order ever made
ARGV
  1 step    begin: then field, value pairs of the sale
            orders: then pairs of order_id (16 bytes) and entry (at most 1,000 pairs); what is there already stays
            open: then the state that the ledger takes
  2 epoch
  3 token   the loader's own; a later loader takes a new one and starts over
  4 state   of `open` alone: recovering while promised orders are honoured, then open | paused | ended
ANSWERS
  begin: BEGUN | LOADED
  orders: ADDED | LOADED | NOT_LOADED | STALE_EPOCH | WRONG_TOKEN
  open: OPENED | LOADED | NOT_LOADED | STALE_EPOCH | WRONG_TOKEN
]]
local sale, buyers, orders, stream, winners = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local step, epoch, token, state = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local had = redis.call('HMGET', sale, 'epoch', 'state', 'token', 'winner_bits')

if step == 'begin' then
  if had[2] and had[2] ~= 'loading' then return { 'LOADED' } end
elseif step == 'orders' or step == 'open' then
  if not had[1] then return { 'NOT_LOADED' } end
  if had[1] ~= epoch then return { 'STALE_EPOCH' } end
  if had[2] ~= 'loading' and not (step == 'open' and had[2] == 'recovering') then return { 'LOADED' } end
  if had[3] ~= token then return { 'WRONG_TOKEN' } end
else
  return redis.error_reply('ERR unknown step of load_sale')
end

local new_entries, new_holdings, new_bits = {}, {}, {}
if step == 'orders' then
  local order_ids, users, of_user = {}, {}, {}
  for i = 4, #ARGV, 2 do
    order_ids[#order_ids + 1] = ARGV[i]
    local user = string.match(ARGV[i + 1], '^%S+')
    if not of_user[user] then
      users[#users + 1] = user
      of_user[user] = { 0, 0 }
    end
  end
  local entries, holdings = redis.call('HMGET', orders, unpack(order_ids)), redis.call('HMGET', buyers, unpack(users))
  for i, user in ipairs(users) do
    if holdings[i] then
      local units, made = string.match(holdings[i], '^(%d+) (%d+)$')
      of_user[user] = { tonumber(units), tonumber(made) }
    end
  end
  for i, order_id in ipairs(order_ids) do
    if not entries[i] then
      local entry = ARGV[3 + 2 * i]
      local user, quantity, status = string.match(entry, '^(%S+) (%d+) %d+ %d+ (%a+)$')
      local holding = of_user[user]
      of_user[user] = { holding[1] + (status == 'held' and tonumber(quantity) or 0), holding[2] + 1 }
      new_entries[#new_entries + 1] = order_id
      new_entries[#new_entries + 1] = entry
      local a, b, c, d = string.byte(order_id, 13, 16)
      new_bits[#new_bits + 1] = (((a * 256 + b) * 256 + c) * 256 + d) % tonumber(had[4])
    end
  end
  for user, holding in pairs(of_user) do
    new_holdings[#new_holdings + 1] = user
    new_holdings[#new_holdings + 1] = holding[1] .. ' ' .. holding[2]
  end
end

-- Every check is above this line and every write below it: Redis does not roll a script back.
if step == 'open' then
  redis.call('HSET', sale, 'state', state or 'open')
  return { 'OPENED' }
end
if step == 'orders' then
  for _, bit in ipairs(new_bits) do redis.call('SETBIT', winners, bit, 1) end
  if #new_entries > 0 then
    redis.call('HSET', orders, unpack(new_entries))
    redis.call('HSET', buyers, unpack(new_holdings))
  end
  return { 'ADDED' }
end
redis.call('DEL', sale, buyers, orders, stream, winners)
redis.call('HSET', sale, unpack(ARGV, 4))
redis.call('HSET', sale, 'epoch', epoch, 'token', token, 'state', 'loading', 'seq', 0)
return { 'BEGUN' }
