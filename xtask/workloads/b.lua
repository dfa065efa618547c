-- Mixed load for the Lua interpreter: numbers, tables, closures, metatables, strings, coroutines.

local function sieve(n)
  local composite, count = {}, 0
  for i = 2, n do
    if not composite[i] then
      count = count + 1
      for j = i * i, n, i do composite[j] = true end
    end
  end
  return count
end

local Shape = {}
Shape.__index = Shape
function Shape.new(w, h) return setmetatable({ w = w, h = h }, Shape) end
function Shape:area() return self.w * self.h end
local Round = setmetatable({}, { __index = Shape })
Round.__index = Round
function Round.new(r) return setmetatable({ r = r }, Round) end
function Round:area() return 3 * self.r * self.r end
Shape.__add = function(a, b) return Shape.new(a.w + b.w, a.h + b.h) end

local function shapes(n)
  local list, total = {}, 0
  for i = 1, n do list[i] = i % 3 == 0 and Round.new(i % 10) or Shape.new(i % 7, i % 5) end
  for _ = 1, 8 do
    for i = 1, #list do total = total + list[i]:area() end
  end
  local sum = Shape.new(0, 0)
  for i = 1, n do
    if list[i].w then sum = sum + list[i] end
  end
  return total, sum:area()
end

local function text(n)
  local parts, tally = {}, {}
  for i = 1, n do
    parts[#parts + 1] = string.format("%d:%s", i % 89, string.rep("x", i % 4))
  end
  for number, tail in table.concat(parts, ","):gmatch("(%d+):(x*)") do
    tally[number] = (tally[number] or 0) + #tail
  end
  local keys = {}
  for k, v in pairs(tally) do keys[#keys + 1] = k .. "=" .. v end
  table.sort(keys)
  return table.concat(keys, " "):upper()
end

local function matrix(n)
  local a, b = {}, {}
  for i = 1, n do
    a[i], b[i] = {}, {}
    for j = 1, n do
      a[i][j] = (i * j) % 11
      b[i][j] = (i + j) % 7 + 0.5
    end
  end
  local trace = 0.0
  for i = 1, n do
    for j = 1, n do
      local s = 0.0
      for k = 1, n do s = s + a[i][k] * b[k][j] end
      if i == j then trace = trace + s end
    end
  end
  return trace
end

local function producers(n)
  local function walk(k)
    return coroutine.wrap(function()
      for i = 1, n do coroutine.yield(i * k) end
    end)
  end
  local total, one, two = 0, walk(1), walk(2)
  for _ = 1, n do total = (total + one() ~ two()) & 0xffffff end
  return total
end

local function fib(n)
  if n < 2 then return n end
  return fib(n - 1) + fib(n - 2)
end

local function compose(n)
  local f = function(x) return x end
  for i = 1, 8 do
    local g = f
    f = function(x) return (g(x) * i + 1) % 10007 end
  end
  local s = 0
  for i = 1, n do s = s + f(i) end
  return s
end

print(sieve(1500000))
print(shapes(120000))
print(text(200000))
print(matrix(140))
print(producers(200000))
print(fib(29))
print(compose(150000))
