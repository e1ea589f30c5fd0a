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
-- While it is paused no verdict on a new spec will come; the one on its journals goes on.
local paused = is("Paused", "True")
if not paused and status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "Waiting for the operator to see the last change"}
end
if is("Stalled", "True") then
  return verdict("Degraded", found["Stalled"])
end
-- Neither a pause nor a rollout excuses a journal that is not well.
if is("WALHealthy", "False") then
  return verdict("Degraded", found["WALHealthy"])
end
if paused then
  return verdict("Suspended", found["Paused"])
end
if is("Hibernated", "True") and not is("Reconciling", "True") then
  return verdict("Suspended", found["Hibernated"])
end
if is("Reconciling", "True") then
  return verdict("Progressing", found["Reconciling"])
end
if is("Ready", "True") and is("WALHealthy", "True") then
  return verdict("Healthy", found["Ready"])
end
-- What is not heard of is never green: many shards, or one that is ready and silent.
if is("Ready", "Unknown") then
  return verdict("Unknown", found["Ready"])
end
if found["Ready"].reason == "WALUnhealthy" and is("WALHealthy", "Unknown") then
  return verdict("Unknown", found["WALHealthy"])
end
return verdict("Progressing", found["Ready"])
