--[[ The stream of a stream key has sent its last event: the key opens nothing any more. Safe to repeat.
  Knows no sale and is no part of one's state, so it asks for no registration.
  KEYS[1] stream_key  string   empty from now on
  ARGV[1] keep_ms
  Returns 0
  Events: none ]]
local stream_key = KEYS[1]
local keep_ms = ARGV[1]
redis.call("SET", stream_key, "", "PX", keep_ms)
return 0
