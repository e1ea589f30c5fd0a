-- The workers go on; the operator leaves them alone.
if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
obj.metadata.annotations["eco.growbin.app/paused"] = "true"
return obj
