#!lua flags=allow-oom
--[[ change: apply one numbered change of a sale, once and in order, with exactly one event that closes its row.

KEYS
  1 sale    hash    epoch, state, window, available, held_back, seq, applied
  2 stream  stream  what the persister reads
ARGV
  1 epoch
  2 n       the number of the change; the ledger must have applied n - 1
  3 kind    pause | resume | window | units | close | end | settle | restore
  4 first   window: starts_ms; units: the delta; else ''
  5 second  window: ends_ms; else ''
ANSWERS
  NOT_LOADED | STALE_EPOCH | ALREADY | GAP applied
  APPLIED seq balance | REFUSED seq reason
]]
local sale, stream = KEYS[1], KEYS[2]
local epoch, n, kind, first, second = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])

local rules = redis.call('HMGET', sale, 'epoch', 'state', 'starts_ms', 'ends_ms', 'available', 'seq', 'applied', 'skew_ms',
  'held_back')
local state = rules[2]
if not rules[1] or not state or state == 'loading' or state == 'recovering' then return { 'NOT_LOADED' } end
if rules[1] ~= epoch then return { 'STALE_EPOCH' } end

local applied = tonumber(rules[7])
if n <= applied then return { 'ALREADY' } end
if n ~= applied + 1 then return { 'GAP ' .. applied } end

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000) + tonumber(rules[8])
local starts_ms, ends_ms = tonumber(rules[3]), tonumber(rules[4])
local available, seq = tonumber(rules[5]), tonumber(rules[6])
local over = state == 'ended' or state == 'settled'
redis.call('XLEN', stream)

-- Each returns the reason of a refusal, or nil, the delta and the fields that change.
local decide = {}

function decide.pause()
  if over then return 'ended' end
  return nil, 0, { 'state', 'paused' }
end

function decide.resume()
  if over then return 'ended' end
  return nil, 0, { 'state', 'open' }
end

function decide.window()
  if over then return 'ended' end
  if not first or not second or second <= first then return 'not_a_window' end
  if now_ms >= starts_ms and first ~= starts_ms then return 'started' end
  return nil, 0, { 'starts_ms', first, 'ends_ms', second }
end

function decide.close()
  if over then return 'ended' end
  local closes_ms = math.min(ends_ms, now_ms)
  return nil, 0, { 'starts_ms', math.min(starts_ms, closes_ms - 1), 'ends_ms', closes_ms }
end

function decide.units()
  if over then return 'ended' end
  if not first or first == 0 then return 'not_a_delta' end
  if available + first < 0 then return 'too_few_units' end
  return nil, first, {}
end

decide['end'] = function()
  if over then return 'ended' end
  if now_ms < ends_ms then return 'not_over' end
  return nil, -available, { 'state', 'ended' }
end

function decide.settle()
  if state ~= 'ended' then return 'not_ended' end
  return nil, 0, { 'state', 'settled' }
end

-- What a recovery holds back is on sale again; after the end it goes to the product, in Postgres: hence the delta of 0.
function decide.restore()
  local held_back = tonumber(rules[9])
  if state == 'settled' then return 'settled' end
  if held_back == 0 then return 'nothing_held_back' end
  return nil, state == 'ended' and 0 or held_back, { 'held_back', 0 }
end

local rule = decide[kind]
local reason, delta, fields
if rule then reason, delta, fields = rule() else reason = 'unknown_kind' end
if reason then delta, fields = 0, {} end
seq, available = seq + 1, available + delta

-- Every check is above this line and every write below it: Redis does not roll a script back. The stream comes first,
-- because it is the one write that can still be refused (an id that is not above its last one).
redis.call('XADD', stream, seq .. '-0', 'kind', kind, 'change', n, 'outcome', reason or 'applied',
  'delta', delta, 'balance', available, 'at', now_ms)
if #fields > 0 then redis.call('HSET', sale, unpack(fields)) end
redis.call('HSET', sale, 'seq', seq, 'available', available, 'applied', n)
if reason then return { 'REFUSED ' .. seq .. ' ' .. reason } end
return { 'APPLIED ' .. seq .. ' ' .. available }
