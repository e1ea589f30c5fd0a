-- Every worker finishes or checkpoints what it runs, and ends; journals and volumes stay.
if obj.metadata.annotations == nil then
  obj.metadata.annotations = {}
end
obj.metadata.annotations["eco.growbin.app/hibernate"] = "true"
return obj
