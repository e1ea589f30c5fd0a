local annotations = obj.metadata.annotations or {}
local function asks(name)
  return annotations["eco.growbin.app/" .. name] == "true"
end

-- A recovery is offered only while one waits for somebody's word.
local waits = false
for _, condition in ipairs((obj.status or {}).conditions or {}) do
  if condition.type == "Recovered" and condition.status == "False" then
    waits = condition.reason == "ApprovalNeeded" or condition.reason == "DryRunDone"
  end
end

return {
  ["pause"] = {["disabled"] = asks("paused"), ["displayName"] = "Pause the operator"},
  ["resume"] = {["disabled"] = not asks("paused") and not asks("hibernate"), ["displayName"] = "Resume"},
  ["drain"] = {["disabled"] = asks("hibernate"), ["displayName"] = "Drain and stop every shard"},
  ["recover"] = {["disabled"] = not waits or asks("recover"), ["displayName"] = "Set damaged journals right"},
}
