local suspended = obj.spec.suspend == true
return {
  ["suspend"] = {["disabled"] = suspended, ["displayName"] = "Suspend syncing"},
  ["resume"] = {["disabled"] = not suspended, ["displayName"] = "Resume syncing"},
  ["sync-now"] = {["disabled"] = suspended, ["displayName"] = "Send results now"},
}
