local annotations = obj.metadata.annotations or {}
local paused = annotations["eco.growbin.app/paused"] == "true"
return {
  ["pause"] = {["disabled"] = paused, ["displayName"] = "Pause the operator"},
  ["resume"] = {["disabled"] = not paused, ["displayName"] = "Resume the operator"},
}
