#!lua
--[[ rate_limit: the generic cell rate algorithm for many keys at once, by Redis time.

One value is kept per key, the theoretical arrival time in microseconds, and it always has an expiry: a key that was
left behind by a crash heals itself. (ITU-T I.371; the virtual scheduling form.)

KEYS
  1..n  string  the theoretical arrival time of one caller
ARGV
  1 emission_us  microseconds that one request costs: 1,000,000 / rate
  2 burst        requests that may come at once
  3 mode         '', or `charge` for requests that were admitted already: each of them is counted
ANSWERS
  for each key the microseconds to wait: 0 means admitted, or charged in time
]]
local emission_us, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local charges = ARGV[3] == 'charge'
local tolerance_us = emission_us * (burst - 1)
-- Some processes may each have admitted one request more, which is charged later.
local ahead_us_max = emission_us * (burst + 64)
local clock = redis.call('TIME')
local now_us = clock[1] * 1000000 + clock[2]

local arrivals, waits, admitted = redis.call('MGET', unpack(KEYS)), {}, {}
for i, key in ipairs(KEYS) do
  -- No caller is further ahead. What says otherwise, or is no number, is junk and must not ban for ever.
  local kept_us = admitted[key] or tonumber(arrivals[i] or 0)
  if not (kept_us and kept_us <= now_us + ahead_us_max) then kept_us = 0 end
  local arrival_us = math.max(kept_us, now_us)
  local early_us = arrival_us - now_us - tolerance_us
  waits[i] = math.max(early_us, 0)
  if charges or early_us <= 0 then admitted[key] = math.min(arrival_us + emission_us, now_us + ahead_us_max) end
  if charges and early_us > 0 then waits[i] = early_us + emission_us end
end

-- Every check is above this line and every write below it: Redis does not roll a script back.
for key, arrival_us in pairs(admitted) do
  redis.call('SET', key, string.format('%.0f', arrival_us), 'PX', math.ceil((arrival_us - now_us) / 1000))
end
return waits
