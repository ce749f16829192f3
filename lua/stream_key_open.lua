--[[ Open the stream of a stream key, or open it again after its connection broke. Safe to repeat.
  Knows no sale and is no part of one's state, so it asks for no registration: a key that was forgotten is refused.
  KEYS[1] stream_key  string   the path it opened first; empty once that stream has ended
  ARGV[1] path    ARGV[2] is_fresh (1 = young enough for a first opening)    ARGV[3] keep_ms
  Returns 0 opened | 7 never opened and too old | 8 its stream has ended | 20 another stream's | 22 wrong type
  Events: none ]]
local stream_key = KEYS[1]
local path, is_fresh, keep_ms = ARGV[1], ARGV[2], ARGV[3]
local opened = redis.pcall("GET", stream_key)
if type(opened) == "table" then return 22 end
if opened == "" then return 8 end
if opened and opened ~= path then return 20 end
if not opened and is_fresh ~= "1" then return 7 end
redis.call("SET", stream_key, path, "PX", keep_ms)
return 0
