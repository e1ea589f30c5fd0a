-- Each new value is passed on to every worker once.
if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
obj.metadata.annotations["eco.growbin.app/sync-now"] = os.date("!%Y-%m-%dT%XZ")
return obj
