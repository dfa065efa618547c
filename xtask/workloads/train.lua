-- What the peers are trained on: the common parts of the language, none of the programs that are measured.

local function queens(n)
  local found, cols, up, down = 0, {}, {}, {}
  local function place(row)
    if row > n then found = found + 1 return end
    for col = 1, n do
      local u, d = row + col, row - col + n
      if not (cols[col] or up[u] or down[d]) then
        cols[col], up[u], down[d] = true, true, true
        place(row + 1)
        cols[col], up[u], down[d] = nil, nil, nil
      end
    end
  end
  place(1)
  return found
end

local Queue = {}
Queue.__index = Queue
function Queue.new() return setmetatable({ first = 1, last = 0 }, Queue) end
function Queue:push(value) self.last = self.last + 1 self[self.last] = value end
function Queue:pop()
  local value = self[self.first]
  self[self.first], self.first = nil, self.first + 1
  return value
end

local function flood(side)
  local seen, queue, steps = {}, Queue.new(), 0
  queue:push(1)
  seen[1] = true
  while queue.first <= queue.last do
    local at = queue:pop()
    steps = steps + 1
    for _, step in ipairs({ 1, -1, side, -side }) do
      local to = at + step
      if to >= 1 and to <= side * side and not seen[to] and to % 7 ~= 3 then
        seen[to] = true
        queue:push(to)
      end
    end
  end
  return steps
end

local function words(n)
  local out, count = {}, {}
  for i = 1, n do out[i] = ("w%d-%s"):format(i % 57, ("ab"):rep(i % 3)) end
  local text = table.concat(out, " ")
  for word in text:gmatch("%a+%d*") do count[word] = (count[word] or 0) + 1 end
  local keys = {}
  for key in pairs(count) do keys[#keys + 1] = key end
  table.sort(keys)
  return #text, #keys, text:gsub("w5", "W"):len()
end

local function generated(n)
  local total = 0
  for value in coroutine.wrap(function() for i = 1, n do coroutine.yield(i * 3 % 17) end end) do total = total + value end
  return total
end

local function matrix(n)
  local a, sum = {}, 0.0
  for i = 1, n do a[i] = {} for j = 1, n do a[i][j] = (i * j) % 10 / 4 end end
  for i = 1, n do for j = 1, n do
    local cell = 0.0
    for k = 1, n do cell = cell + a[i][k] * a[k][j] end
    sum = sum + cell
  end end
  return sum
end

print(queens(8), flood(150), generated(60000), matrix(70))
print(words(30000))
print(pcall(error, { code = 1 }), select("#", table.unpack({ 1, 2, 3 })))
