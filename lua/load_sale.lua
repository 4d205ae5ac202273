#!lua
--[[ load_sale: build the ledger of a new epoch; it sells only after the load was marked in Postgres and opened.

KEYS
  1 sale    hash    all its fields
  2 buyers  hash    user -> units held or bought, orders made
  3 orders  hash    order_id -> user, quantity, seq, reserved_ms, held or released
  4 stream  stream  what the persister reads
  5 winners bitmap  a bit for each order ever made
ARGV
  1 step    begin: then field, value pairs of the sale; open: nothing more
  2 epoch
  3 token   the loader's own; a later loader takes a new one and starts over
ANSWERS
  begin: BEGUN | LOADED
  open: OPENED | LOADED | NOT_LOADED | STALE_EPOCH | WRONG_TOKEN
]]
local sale, buyers, orders, stream, winners = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local step, epoch, token = ARGV[1], ARGV[2], ARGV[3]
local had = redis.call('HMGET', sale, 'epoch', 'state', 'token')

if step == 'begin' then
  if had[2] and had[2] ~= 'loading' then return { 'LOADED' } end
elseif step == 'open' then
  if not had[1] then return { 'NOT_LOADED' } end
  if had[1] ~= epoch then return { 'STALE_EPOCH' } end
  if had[2] ~= 'loading' then return { 'LOADED' } end
  if had[3] ~= token then return { 'WRONG_TOKEN' } end
else
  return redis.error_reply('ERR unknown step of load_sale')
end

-- Every check is above this line and every write below it: Redis does not roll a script back.
if step == 'open' then
  redis.call('HSET', sale, 'state', 'open')
  return { 'OPENED' }
end
redis.call('DEL', sale, buyers, orders, stream, winners)
redis.call('HSET', sale, unpack(ARGV, 4))
redis.call('HSET', sale, 'epoch', epoch, 'token', token, 'state', 'loading', 'seq', 0)
return { 'BEGUN' }
