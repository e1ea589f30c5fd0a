{{- define "waste.labels" -}}
app.kubernetes.io/part-of: eco
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
eco.growbin.app/environment: {{ .Values.environment | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Argo CD applies objects in the order of this number. */}}
{{- define "waste.wave" -}}
argocd.argoproj.io/sync-wave: {{ . | quote }}
{{- end -}}

{{- define "waste.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else if .tag -}}
{{- printf "%s:%s" .repository .tag -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The broker and its virtual host, for objects of the messaging topology operator. */}}
{{- define "waste.broker" -}}
rabbitmqClusterReference: {name: rabbitmq}
vhost: {{ .Values.broker.vhost | quote }}
{{- end -}}

{{/* Name of an object for something of the broker, as q-ai for q.ai. */}}
{{- define "waste.objectName" -}}
{{- lower . | replace "." "-" | replace "/" "-" | replace "_" "-" | trimAll "-" -}}
{{- end -}}

{{- define "waste.checks" -}}
{{- if and (eq .Values.secrets.mode "external") (not .Values.secrets.external.storeName) -}}
{{- fail "secrets.external.storeName: needed with secrets.mode external" -}}
{{- end -}}
{{- if and (or .Values.image.tag .Values.image.digest) (not .Values.image.repository) -}}
{{- fail "image.repository: needed with a tag or a digest" -}}
{{- end -}}
{{- end -}}
