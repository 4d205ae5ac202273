#!lua flags=allow-oom
--[[ fence: give a ledger an epoch that no caller has, or take that back; whoever asks it then is stale.

KEYS
  1 sale    hash    epoch, state
ARGV
  1 step    fence | lift
  2 epoch   lift: the one that the callers have
  3 number  the recovery's; a later one's fence is never replaced or lifted by an earlier one
ANSWERS
  fence: FENCED | MISSING | NEWER
  lift: LIFTED | MISSING | NEWER
]]
local sale = KEYS[1]
local step, epoch, number = ARGV[1], ARGV[2], tonumber(ARGV[3])

local had = redis.call('HMGET', sale, 'epoch', 'state')
if not had[1] or not had[2] then return { 'MISSING' } end
local fenced_by = tonumber(string.match(had[1], '^fenced%.(%d+)$'))
if fenced_by and fenced_by > number then return { 'NEWER' } end
if step ~= 'fence' and step ~= 'lift' then return redis.error_reply('ERR unknown step of fence') end

-- Every check is above this line and every write below it: Redis does not roll a script back.
if step == 'fence' then
  redis.call('HSET', sale, 'epoch', 'fenced.' .. number)
  return { 'FENCED' }
end
if fenced_by then redis.call('HSET', sale, 'epoch', epoch) end
return { 'LIFTED' }
