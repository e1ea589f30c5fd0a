-- Set, not removed: a table without entries would become a list on its way back.
if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
obj.metadata.annotations["eco.growbin.app/paused"] = "false"
return obj
