{{/*
The shards to render, each with its index, name, claim, image, size, grown, replicas, journalUuid and recovery,
as a JSON list.
*/}}
{{- define "eco-worker.shards" -}}
{{- $root := . -}}
{{- $name := include "eco-worker.name" . -}}
{{- $asked := .Values.shards -}}
{{- if kindIs "invalid" $asked -}}
{{- $asked = list -}}
{{- range $index := until (int .Values.spec.replicas) -}}
{{- $asked = append $asked (dict "index" $index) -}}
{{- end -}}
{{- end -}}
{{- $shards := list -}}
{{- range $given := $asked -}}
{{- $image := coalesce $given.image $root.Values.spec.image $root.Values.image -}}
{{- if not $image -}}
{{- fail "spec.image: missing, and the value image gives no default" -}}
{{- end -}}
{{- $shards = append $shards (dict
  "index" (int $given.index)
  "name" (printf "%s-%d" $name (int $given.index))
  "claim" (printf "wal-%s-%d" $name (int $given.index))
  "image" $image
  "size" ($given.size | default $root.Values.spec.wal.size)
  "grown" ($given.grown | default "")
  "replicas" (ternary $given.replicas 1 (hasKey $given "replicas"))
  "journalUuid" ($given.journalUuid | default "")
  "recovery" ($given.recovery | default "")) -}}
{{- end -}}
{{- toRawJson $shards -}}
{{- end -}}

{{/*
Takes (root, image). What it takes to start a worker of this kind on a claim that outlived its shard, as one line of
JSON: references and addresses, no variable of the user's, since a value could be a secret.
*/}}
{{- define "eco-worker.drain" -}}
{{- $root := index . 0 -}}
{{- $spec := $root.Values.spec -}}
{{- $kept := dict "image" (index . 1) -}}
{{- range $field := list
  "role" "imagePullPolicy" "imagePullSecrets" "serviceAccountName" "priorityClassName" "queues" "nodeSelector"
  "tolerations" "broker" "objectStore" -}}
{{- with get $spec $field -}}
{{- $_ := set $kept $field . -}}
{{- end -}}
{{- end -}}
{{- with $spec.databases -}}
{{- $databases := list -}}
{{- range . -}}
{{- $databases = append $databases (merge (dict) . (dict "port" 5432)) -}}
{{- end -}}
{{- $_ := set $kept "databases" $databases -}}
{{- end -}}
{{- $_ := set $kept "wal" (dict "reclaimPolicy" $spec.wal.reclaimPolicy) -}}
{{- toRawJson $kept -}}
{{- end -}}
