-- cmsgpack as Redis has it, as far as scripts use it: integers, text, booleans, nil, lists and tables with text as keys.
-- Redis's own is written in C; a trial of random values holds this one to it (tests/interleavings).
local byte, char, floor, concat = string.byte, string.char, math.floor, table.concat

local function big_endian(value, size)
  local bytes = {}
  for i = size, 1, -1 do
    bytes[i] = value % 256
    value = floor(value / 256)
  end
  return char(unpack(bytes))
end

local function packed_integer(value)
  if value >= 0 then
    if value < 128 then return char(value) end
    if value < 2^8 then return "\204" .. char(value) end
    if value < 2^16 then return "\205" .. big_endian(value, 2) end
    if value < 2^32 then return "\206" .. big_endian(value, 4) end
    return "\207" .. big_endian(value, 8)
  end
  if value >= -32 then return char(256 + value) end
  if value >= -2^7 then return "\208" .. char(256 + value) end
  if value >= -2^15 then return "\209" .. big_endian(2^16 + value, 2) end
  return "\210" .. big_endian(2^32 + value, 4)
end

local function packed_text(value)
  local size = #value
  if size < 32 then return char(160 + size) .. value end
  if size < 2^8 then return "\217" .. char(size) .. value end
  if size < 2^16 then return "\218" .. big_endian(size, 2) .. value end
  return "\219" .. big_endian(size, 4) .. value
end

local pack

local function packed_table(value)
  local count, most = 0, 0
  for key in pairs(value) do
    if type(key) ~= "number" or key < 1 or key ~= floor(key) then most = nil break end
    count = count + 1
    if key > most then most = key end
  end
  local parts = {}
  if most == count then
    parts[1] = count < 16 and char(144 + count) or "\220" .. big_endian(count, 2)
    for i = 1, count do parts[i + 1] = pack(value[i]) end
    return concat(parts)
  end
  count = 0
  for key, item in pairs(value) do
    count = count + 1
    parts[#parts + 1] = pack(key) .. pack(item)
  end
  return (count < 16 and char(128 + count) or "\222" .. big_endian(count, 2)) .. concat(parts)
end

pack = function(value)
  local kind = type(value)
  if kind == "string" then return packed_text(value) end
  if kind == "number" then
    if value ~= floor(value) then error("a fraction") end
    return packed_integer(value)
  end
  if kind == "boolean" then return value and "\195" or "\194" end
  if kind == "table" then return packed_table(value) end
  return "\192"
end

local function number_at(text, at, size)
  local value = 0
  for i = at, at + size - 1 do value = value * 256 + byte(text, i) end
  return value, at + size
end

local unpack_at

local function list_at(text, at, count)
  local value = {}
  for i = 1, count do value[i], at = unpack_at(text, at) end
  return value, at
end

local function map_at(text, at, count)
  local value, key = {}, nil
  for _ = 1, count do
    key, at = unpack_at(text, at)
    value[key], at = unpack_at(text, at)
  end
  return value, at
end

local function text_at(text, at, size)
  if at + size - 1 > #text then error("Missing bytes in input.") end
  return text:sub(at, at + size - 1), at + size
end

unpack_at = function(text, at)
  local head = byte(text, at)
  if not head then error("Missing bytes in input.") end
  at = at + 1
  if head < 128 then return head, at end
  if head < 144 then return map_at(text, at, head - 128) end
  if head < 160 then return list_at(text, at, head - 144) end
  if head < 192 then return text_at(text, at, head - 160) end
  if head == 192 then return nil, at end
  if head == 194 then return false, at end
  if head == 195 then return true, at end
  if head >= 204 and head <= 207 then return number_at(text, at, 2 ^ (head - 204)) end
  if head >= 208 and head <= 211 then
    local size = 2 ^ (head - 208)
    local value, after = number_at(text, at, size)
    if value >= 2 ^ (8 * size - 1) then value = value - 2 ^ (8 * size) end
    return value, after
  end
  if head >= 217 and head <= 219 then
    local size, after = number_at(text, at, 2 ^ (head - 217))
    return text_at(text, after, size)
  end
  if head == 220 or head == 221 then
    local count, after = number_at(text, at, 2 ^ (head - 219))
    return list_at(text, after, count)
  end
  if head == 222 or head == 223 then
    local count, after = number_at(text, at, 2 ^ (head - 221))
    return map_at(text, after, count)
  end
  if head >= 224 then return head - 256, at end
  error("Bad data format in input.")
end

return {
  pack = pack,
  unpack = function(text)
    local value = unpack_at(text, 1)
    return value
  end,
}
