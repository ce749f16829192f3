--[[ Take keys that survived a restart of their server on into the next epoch, whole, by renaming them. The caller has
  compared them with the record. Works with memory full.
  KEYS[1] meta  hash  run_id; behind it the sale's other keys, then all of them again by their names of the next epoch
  ARGV[1] the run id the keys had when they were compared
  Returns {0, the server's run id, now_ms} | {9} not the keys that were compared    Events: none ]]
-- include: guard
-- include: shop
local own, count = server_run_id(), #KEYS / 2
if redis.pcall("HGET", KEYS[1], "run_id") ~= ARGV[1] then return {STALE} end
for i = 1, count do
  if redis.call("EXISTS", KEYS[i]) == 1 then redis.call("RENAME", KEYS[i], KEYS[count + i]) end
end
redis.call("HSET", KEYS[count + 1], "run_id", own)
return {OK, own, clock_ms()}
