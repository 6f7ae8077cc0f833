-- One step of arithmetic.py for each model, on the state that all pumps share and on this server's clock.
-- KEYS: a hash a model. ARGV[1]: their reports, a JSON array; ARGV[2]: the constants; ARGV[3]: the time, for tests.

local reports, fixed = cjson.decode(ARGV[1]), cjson.decode(ARGV[2])
local clock = redis.call('TIME')
local now = tonumber(ARGV[3] or '') or tonumber(clock[1]) + tonumber(clock[2]) / 1000000

local function read(key)
  local state, flat = {}, redis.call('HGETALL', key)
  for i = 1, #flat, 2 do state[flat[i]] = tonumber(flat[i + 1]) end
  return state
end

local function write(key, before, after)
  local changed = false
  for name, value in pairs(after) do
    if before[name] ~= value then
      redis.call('HSET', key, name, string.format('%.17g', value))
      changed = true
    end
  end
  for name in pairs(before) do
    if after[name] == nil then redis.call('HDEL', key, name) end
  end
  if changed then redis.call('EXPIRE', key, fixed.keep_s) end
end

local function lower(configured, said)
  if configured > 0 and said > 0 then return math.min(configured, said) end
  return math.max(configured, said)
end

local function rates(state, report)
  if report.said_requests > 0 or report.said_tokens > 0 then
    state.said_requests, state.said_tokens, state.said_at = report.said_requests, report.said_tokens, now
  end
  local fresh = math.abs(now - (state.said_at or 0)) < fixed.said_for_s
  return lower(report.requests_per_minute, fresh and state.said_requests or 0),
    lower(report.tokens_per_minute, fresh and state.said_tokens or 0)
end

local function grant(state, report, requests, tokens)
  local held = state.hold or 0
  local granted, wait = held > now and 0 or report.want, 0
  local request_s = requests > 0 and 60 / (requests * fixed.pace) or 0
  local token_s = tokens > 0 and 60 / (tokens * fixed.pace) or 0
  local buckets = {
    {name = 'requests_at', size_s = request_s, shift_s = -report.give_back * request_s},
    {name = 'tokens_at', size_s = report.call_tokens * token_s, shift_s = report.more_tokens * token_s},
  }
  for _, bucket in ipairs(buckets) do
    if bucket.size_s > 0 then
      local resumed = held <= now and held + fixed.burst_s or now
      local at = math.max(math.max(state[bucket.name] or 0, now) + bucket.shift_s, now, resumed)
      bucket.at = math.min(at, now + fixed.most_ahead_s)
      local room = math.floor((now + fixed.burst_s - bucket.at) / bucket.size_s) + 1
      granted = math.min(granted, math.max(0, room))
    end
  end
  for _, bucket in ipairs(buckets) do
    if bucket.at then
      state[bucket.name] = bucket.at + granted * bucket.size_s
      wait = math.max(wait, state[bucket.name] - fixed.burst_s - now)
    end
  end
  return granted, granted < report.want and wait or 0
end

local function calls_at_a_time(state, report)
  local ceiling = report.ceiling
  local limit = math.min(state.limit or ceiling, ceiling)
  local congested = (state.congested or 0) + report.congested
  if limit < ceiling then
    limit = math.min(ceiling, limit + report.fine * math.max(1, ceiling / fixed.steps) / limit)
  end
  if limit >= ceiling and congested == 0 then
    for _, name in ipairs(fixed.kept) do state[name] = nil end
    return ceiling
  end
  local fine, since = (state.fine or 0) + report.fine, state.since or 0
  local in_flight = math.max(state.in_flight or 1, report.in_flight)
  if math.abs(now - since) >= report.window_s then
    if congested > 0 then
      limit = math.max(1, math.min(limit, in_flight) * (1 - congested / (fine + congested) / 2))
    end
    fine, congested, in_flight, since = 0, 0, 1, now
  end
  state.limit, state.fine, state.congested, state.in_flight, state.since = limit, fine, congested, in_flight, since
  return limit
end

local replies = {}
for i, key in ipairs(KEYS) do
  local report, before = reports[i], read(key)
  local state = {}
  for name, value in pairs(before) do state[name] = value end
  local hold = math.min(math.max(state.hold or 0, now + report.hold_s), now + fixed.most_hold_s)
  if hold > now then state.hold = hold end
  local limit = calls_at_a_time(state, report)
  local requests, tokens = rates(state, report)
  local granted, wait = grant(state, report, requests, tokens)
  local held = math.max(0, hold - now)
  write(key, before, state)
  replies[i] = {granted, math.max(wait, held), held, limit, requests, tokens}
end
return cjson.encode(replies)
