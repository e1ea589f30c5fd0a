{{/* Name of every object of the release; of the usual release name the name of the chart stays as it is. */}}
{{- define "eco-operator.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "eco-operator.selectorLabels" -}}
app.kubernetes.io/name: eco-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "eco-operator.labels" -}}
{{ include "eco-operator.selectorLabels" . }}
app.kubernetes.io/part-of: eco
app.kubernetes.io/component: operator
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{/* Not eco-operator: by that label the operator knows the objects it builds itself. */ -}}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "eco-operator.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "eco-operator.fullname" .) -}}
{{- end -}}

{{- define "eco-operator.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (.tag | default $.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
What the operator does in a namespace it serves: it creates objects and applies to those that are there; a revision and
a job are never changed. A claim is deleted only where `wal.reclaimPolicy: Delete` asks for it and a job has found its
journal empty; without the right (`rbac.deleteClaims: false`) such claims are kept and an event says so.
*/}}
{{- define "eco-operator.rules" -}}
- apiGroups: [eco.growbin.app]
  resources: [ecoworkers, walsyncs]
  verbs: [list, watch]
- apiGroups: [eco.growbin.app]
  resources: [ecoworkers/status, walsyncs/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [get, list, watch, create, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims, secrets, services]
  verbs: [get, list, watch, create, patch]
{{- if .Values.rbac.deleteClaims }}
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [delete]
{{- end }}
{{- if .Values.workerMonitors.enabled }}
- apiGroups: [monitoring.coreos.com]
  resources: [servicemonitors]
  verbs: [get, list, create, patch]
{{- end }}
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end -}}
