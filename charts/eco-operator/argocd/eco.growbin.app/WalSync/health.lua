-- Argo CD runs this without the libraries of strings and numbers: plain comparisons only.
local status = obj.status or {}
local found = {}
for _, condition in ipairs(status.conditions or {}) do
  found[condition.type] = condition
end

local function verdict(health, condition)
  return {status = health, message = condition.reason .. ": " .. condition.message}
end

local function is(kind, value)
  return found[kind] ~= nil and found[kind].status == value
end

if found["Ready"] == nil then
  return {status = "Progressing", message = "Waiting for the operator to look at it"}
end
if status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "Waiting for the operator to see the last change"}
end
if is("Stalled", "True") then
  return verdict("Degraded", found["Stalled"])
end
if is("Reconciling", "True") then
  return verdict("Progressing", found["Reconciling"])
end
local ready = found["Ready"]
if ready.status == "True" then
  if ready.reason == "Suspended" then
    return verdict("Suspended", ready)
  end
  return verdict("Healthy", ready)
end
-- Both end by themselves once the EcoWorkers are there and their workers run.
if ready.reason == "NoWorkers" or ready.reason == "Pending" then
  return verdict("Progressing", ready)
end
if ready.status == "Unknown" then
  return verdict("Unknown", ready)
end
return verdict("Degraded", ready)
