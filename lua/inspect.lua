--[[ Whether a line is loaded, whole and on the server it was registered with, and what it was told of Postgres.
  KEYS[1] meta      hash
  KEYS[2] policy    hash
  KEYS[3] pauses    set
  KEYS[4] waiting   zset
  KEYS[5] absent    zset
  KEYS[6] tickets   hash
  KEYS[7] buyers    hash
  KEYS[8] leases    zset
  KEYS[9] gone      string
  KEYS[10] admissions  stream
  KEYS[11] frame    string
  KEYS[12] presence0   KEYS[13] presence1   KEYS[14] presence2   KEYS[15] presence3   KEYS[16] presence4   strings
  Returns {0 registered | 1 on another server | 7 not loaded | 22 corrupt, run_id of this server, now_ms} and behind it,
    for 0 and 1: sync_no, tail, ceiling, is_sold_out,
    {opens_at_ms, closes_at_ms, draining, message, policy_version}, {holder, ...} ]]
-- include: guard
-- include: line
local meta, policy, pauses = KEYS[1], KEYS[2], KEYS[3]

if not are_types({
  [meta] = "hash", [policy] = "hash", [pauses] = "set", [KEYS[4]] = "zset", [KEYS[5]] = "zset", [KEYS[6]] = "hash",
  [KEYS[7]] = "hash", [KEYS[8]] = "zset", [KEYS[9]] = "string", [KEYS[10]] = "stream", [KEYS[11]] = "string",
  [KEYS[12]] = "string", [KEYS[13]] = "string", [KEYS[14]] = "string", [KEYS[15]] = "string", [KEYS[16]] = "string"
}) then return {CORRUPT, server_run_id(), clock_ms()} end

local m = redis.call(
  "HMGET", meta, "run_id", "sync_no", "tail", "ceiling", "sold_out_ms", "opens_at_ms", "closes_at_ms", "draining", "message"
)
local version = redis.call("HGET", policy, "version")
if not m[1] or not version then return {UNKNOWN, server_run_id(), clock_ms()} end
return {
  is_registered(meta) and OK or RECOVERING, server_run_id(), clock_ms(), tonumber(m[2]) or 0, tonumber(m[3]) or 0,
  tonumber(m[4]) or 0, (tonumber(m[5]) or 0) > 0 and 1 or 0,
  {tonumber(m[6]), tonumber(m[7]), tonumber(m[8]), m[9], tonumber(version)}, redis.call("SMEMBERS", pauses)
}
