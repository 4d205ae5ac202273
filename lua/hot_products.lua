#!lua
--[[ hot_products: merge the reads that one process has counted into what all have, which loses half in each half-life.

Exponential decay in its lazy form: all scores are scaled once for all the time since they were scaled last.

KEYS
  1 scaled_at  string  when the scores were scaled last, in milliseconds
  2 scores     zset    the score of each product
ARGV
  1 half_life_ms  in so long a score loses half
  2 kept          products that are kept at most: those with the highest scores
  from 3 on, for each product: its id, and how often it was read
ANSWERS
  nothing
]]
local scaled_at, scores = KEYS[1], KEYS[2]
local half_life_ms, kept = tonumber(ARGV[1]), tonumber(ARGV[2])
local FORGOTTEN_BELOW, SCALED_EVERY_MS = 0.01, 1000
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
local ago_ms = now_ms - (tonumber(redis.call('MGET', scaled_at)[1] or now_ms) or now_ms)

-- Every check is above this line and every write below it: Redis does not roll a script back.
if ago_ms >= SCALED_EVERY_MS then
  redis.call('ZUNIONSTORE', scores, 1, scores, 'WEIGHTS', string.format('%.17g', 0.5 ^ (ago_ms / half_life_ms)))
  redis.call('ZREMRANGEBYSCORE', scores, '-inf', '(' .. FORGOTTEN_BELOW)
end
if ago_ms >= SCALED_EVERY_MS or ago_ms <= 0 then redis.call('SET', scaled_at, string.format('%.0f', now_ms)) end
for i = 3, #ARGV, 2 do redis.call('ZINCRBY', scores, ARGV[i + 1], ARGV[i]) end
redis.call('ZREMRANGEBYRANK', scores, 0, -kept - 1)
