{{/*
Names, labels and the hash of every object. Helpers give JSON, which is read back with fromJson: unlike YAML it carries
any text of a user unchanged.
*/}}

{{- define "eco-worker.name" -}}
{{- .Values.name | default .Release.Name -}}
{{- end -}}

{{/* By the label managed-by the operator knows the objects it follows; those of a release of its own are none of them. */}}
{{- define "eco-worker.labels" -}}
{{- $labels := dict
  "app.kubernetes.io/name" (printf "%s-worker" .Values.spec.role)
  "app.kubernetes.io/instance" (include "eco-worker.name" .)
  "app.kubernetes.io/part-of" "eco"
  "app.kubernetes.io/managed-by" (ternary "eco-operator" .Release.Service (not (empty .Values.owner.uid)))
  "eco.growbin.app/ecoworker" (include "eco-worker.name" .) -}}
{{- with .Values.owner.uid -}}
{{- $_ := set $labels "eco.growbin.app/ecoworker-uid" . -}}
{{- end -}}
{{- toRawJson $labels -}}
{{- end -}}

{{/* Takes (root, index) or (root, index, component). */}}
{{- define "eco-worker.shardLabels" -}}
{{- $root := index . 0 -}}
{{- $labels := include "eco-worker.labels" $root | fromJson -}}
{{- $_ := set $labels "eco.growbin.app/shard" (printf "%s-%d" (include "eco-worker.name" $root) (int (index . 1))) -}}
{{- if gt (len .) 2 -}}
{{- $_ := set $labels "app.kubernetes.io/component" (index . 2) -}}
{{- $_ := set $labels "component" (index . 2) -}}
{{- end -}}
{{- toRawJson $labels -}}
{{- end -}}

{{/* Takes (root, name, labels). Metadata of an object that goes with its EcoWorker, if there is one. */}}
{{- define "eco-worker.metadata" -}}
{{- $root := index . 0 -}}
{{- $metadata := dict "name" (index . 1) "namespace" $root.Release.Namespace "labels" (index . 2) -}}
{{- with $root.Values.owner.uid -}}
{{- $owner := dict
  "apiVersion" "eco.growbin.app/v1alpha1"
  "kind" "EcoWorker"
  "name" (include "eco-worker.name" $root)
  "uid" .
  "controller" true -}}
{{- $_ := set $metadata "ownerReferences" (list $owner) -}}
{{- end -}}
{{- toRawJson $metadata -}}
{{- end -}}

{{/*
Takes (object) or (object, annotations). The object as YAML, with the hash of what is wanted: the same one that the
operator writes. The further annotations are for tools that install the chart and are no part of what is wanted.
*/}}
{{- define "eco-worker.object" -}}
{{- $object := index . 0 -}}
{{- $annotations := $object.metadata.annotations | default dict -}}
{{- $hash := toRawJson $object | sha256sum | trunc 32 -}}
{{- $_ := set $annotations "eco.growbin.app/desired-hash" $hash -}}
{{- if gt (len .) 1 -}}
{{- $annotations = merge $annotations (index . 1) -}}
{{- end -}}
{{- $_ := set $object.metadata "annotations" $annotations -}}
{{- toYaml $object -}}
{{- end -}}
