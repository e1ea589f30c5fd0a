-- Set, not removed: a table without entries would become a list on its way back.
for _, name in ipairs({"paused", "hibernate"}) do
  local key = "eco.growbin.app/" .. name
  if (obj.metadata.annotations or {})[key] ~= nil then
    obj.metadata.annotations[key] = "false"
  end
end
return obj
