-- The word that `recovery.mode: Manual` waits for. It holds until somebody takes the annotation off.
if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
obj.metadata.annotations["eco.growbin.app/recover"] = "true"
return obj
