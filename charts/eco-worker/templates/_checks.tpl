{{/* What the values' schema cannot express. Each refusal begins with the path of the value. */}}
{{- define "eco-worker.checks" -}}
{{- $spec := .Values.spec -}}
{{- $name := include "eco-worker.name" . -}}
{{- if not (and (le (len $name) 45) (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name)) -}}
{{- fail (printf "name: %q must be at most 45 characters, begin with a letter and hold only lower case letters, digits and dashes" $name) -}}
{{- end -}}
{{- if and $spec.maxUnfinished (lt (int64 $spec.maxUnfinished) (int64 $spec.concurrency)) -}}
{{- fail "spec.maxUnfinished: must not be less than spec.concurrency: some of the worker's slots would never be used" -}}
{{- end -}}
{{- if and (eq ($spec.wal.ackPolicy | default "Journaled") "Completed") (gt (len $spec.queues) (int $spec.concurrency)) -}}
{{- fail "spec.concurrency: must not be less than the number of spec.queues with spec.wal.ackPolicy Completed: each queue needs a slot" -}}
{{- end -}}
{{- $size := include "eco-worker.bytes" $spec.wal.size | float64 -}}
{{- if lt $size 67108864.0 -}}
{{- fail "spec.wal.size: must be at least 64Mi: the journal keeps a reserve to finish running work on a full volume" -}}
{{- end -}}
{{- with $spec.wal.growth -}}
{{- if lt (include "eco-worker.bytes" .max | float64) $size -}}
{{- fail "spec.wal.growth.max: must not be less than spec.wal.size: every volume is at least that large" -}}
{{- end -}}
{{- end -}}
{{- include "eco-worker.checkUnique" (list "spec.env" $spec.env "name") -}}
{{- include "eco-worker.checkUnique" (list "spec.databases" $spec.databases "name") -}}
{{- include "eco-worker.checkUnique" (list "spec.imagePullSecrets" $spec.imagePullSecrets "name") -}}
{{- include "eco-worker.checkUnique" (list "shards" .Values.shards "index") -}}
{{- with .Values.sync -}}
{{- $found := false -}}
{{- range $spec.databases -}}
{{- $found = or $found (eq .name $.Values.sync.database) -}}
{{- end -}}
{{- if not $found -}}
{{- fail (printf "sync.database: no entry %q in spec.databases" .database) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Takes (path, list, key). */}}
{{- define "eco-worker.checkUnique" -}}
{{- $path := index . 0 -}}
{{- $key := index . 2 -}}
{{- $seen := list -}}
{{- range $i, $item := index . 1 -}}
{{- $value := get $item $key | toString -}}
{{- if has $value $seen -}}
{{- fail (printf "%s[%d].%s: %q appears more than once" $path $i $key $value) -}}
{{- end -}}
{{- $seen = append $seen $value -}}
{{- end -}}
{{- end -}}

{{/* Takes a quantity; its bytes as a number. */}}
{{- define "eco-worker.bytes" -}}
{{- $factors := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15
  "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 -}}
{{- $text := . | toRawJson | trimAll "\"" -}}
{{- $number := regexFind "^[0-9.]+" $text -}}
{{- printf "%f" (mulf ($number | float64) (get $factors (trimPrefix $number $text))) -}}
{{- end -}}
