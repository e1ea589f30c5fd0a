{{/* Takes (root, shard), the shard with its defaults filled in. The pod of a shard, as JSON. */}}
{{- define "eco-worker.pod" -}}
{{- $root := index . 0 -}}
{{- $shard := index . 1 -}}
{{- $spec := $root.Values.spec -}}
{{- $name := include "eco-worker.name" $root -}}
{{- $pod := include "eco-worker.podBase" $root | fromYaml -}}
{{- $container := index $pod.containers 0 -}}
{{- $_ := set $container "image" $shard.image -}}
{{- $_ := set $container "env" (include "eco-worker.environment" . | fromJsonArray) -}}
{{- $_ := set $container "resources" ($spec.resources | default (dict "requests" (dict "cpu" "100m" "memory" "160Mi"))) -}}
{{- with $spec.imagePullPolicy -}}
{{- $_ := set $container "imagePullPolicy" . -}}
{{- end -}}
{{- $_ := set $pod "terminationGracePeriodSeconds" (int64 $spec.gracePeriodSeconds) -}}
{{- $token := dict
  "secretName" ($root.Values.adminTokenSecret | default (printf "%s-admin-token" $name))
  "defaultMode" 288
  "items" (list (dict "key" "token" "path" "token")) -}}
{{- $shardSettings := dict "name" (printf "%s-journal" $shard.name) "optional" true -}}
{{- $syncSettings := dict "name" (printf "%s-sync" $name) "optional" true -}}
{{- $_ := set $pod "volumes" (list
  (dict "name" "wal" "persistentVolumeClaim" (dict "claimName" $shard.claim))
  (dict "name" "tmp" "emptyDir" (dict "sizeLimit" "512Mi"))
  (dict "name" "admin-token" "secret" $token)
  (dict "name" "shard-settings" "configMap" $shardSettings)
  (dict "name" "sync-settings" "configMap" $syncSettings)) -}}
{{- range $field := list "imagePullSecrets" "serviceAccountName" "priorityClassName" "nodeSelector" "tolerations" -}}
{{- with get $spec $field -}}
{{- $_ := set $pod $field . -}}
{{- end -}}
{{- end -}}
{{- toRawJson $pod -}}
{{- end -}}

{{/* What no value changes. */}}
{{- define "eco-worker.podBase" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
containers:
  - name: worker
    args: [run]
    ports:
      - {name: metrics, containerPort: 9464, protocol: TCP}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
    # A start may wait for the lock of a predecessor and then reads its journal.
    startupProbe:
      httpGet: {path: /livez, port: metrics}
      periodSeconds: 2
      timeoutSeconds: 2
      failureThreshold: 60
    livenessProbe:
      httpGet: {path: /livez, port: metrics}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 6
    readinessProbe:
      httpGet: {path: /readyz, port: metrics}
      periodSeconds: 5
      timeoutSeconds: 3
      failureThreshold: 2
    terminationMessagePolicy: FallbackToLogsOnError
    volumeMounts:
      - {name: wal, mountPath: /var/lib/ecoeco/wal}
      - {name: tmp, mountPath: /tmp}
      - {name: admin-token, mountPath: /etc/eco/admin, readOnly: true}
      - {name: shard-settings, mountPath: /etc/eco/shard, readOnly: true}
      - {name: sync-settings, mountPath: /etc/eco/sync, readOnly: true}
{{- end -}}

{{/* Takes (root, shard). The variables of a shard's worker: what it is, then what it may use. */}}
{{- define "eco-worker.environment" -}}
{{- $root := index . 0 -}}
{{- $shard := index . 1 -}}
{{- $spec := $root.Values.spec -}}
{{- $queues := $spec.queues | default (get (dict "storage" (list "q.batch")) $spec.role) -}}
{{- $unfinished := $spec.maxUnfinished | default (add $spec.concurrency 256) -}}
{{- $env := list
  (dict "name" "ECO_NAMESPACE" "value" $root.Release.Namespace)
  (dict "name" "ECO_WORKER" "value" (include "eco-worker.name" $root))
  (dict "name" "ECO_SHARD" "value" $shard.name)
  (dict "name" "ECO_ROLE" "value" $spec.role)
  (dict "name" "ECO_QUEUES" "value" (join "," $queues))
  (dict "name" "ECO_CONCURRENCY" "value" (int64 $spec.concurrency | toString))
  (dict "name" "ECO_MAX_UNFINISHED" "value" (int64 $unfinished | toString))
  (dict "name" "ECO_GRACE_PERIOD_S" "value" (int64 $spec.gracePeriodSeconds | toString))
  (dict "name" "ECO_ACK_POLICY" "value" ($spec.wal.ackPolicy | default "Journaled"))
  (dict "name" "WAL_DB_PATH" "value" (printf "/var/lib/ecoeco/wal/%s_worker.db" $spec.role))
  (dict "name" "RABBITMQ_URL" "valueFrom" (dict "secretKeyRef" $spec.broker.urlSecretRef)) -}}
{{- with $spec.databases -}}
{{- $database := first . -}}
{{- $env = concat $env (list
  (dict "name" "POSTGRES_HOST" "value" $database.host)
  (dict "name" "POSTGRES_PORT" "value" ($database.port | default 5432 | int64 | toString))
  (dict "name" "POSTGRES_DB" "value" $database.database)
  (dict "name" "POSTGRES_USER" "valueFrom" (dict "secretKeyRef" $database.userSecretRef))
  (dict "name" "POSTGRES_PASSWORD" "valueFrom" (dict "secretKeyRef" $database.passwordSecretRef))) -}}
{{- end -}}
{{- with $spec.objectStore -}}
{{- $env = concat $env (list
  (dict "name" "S3_BUCKET" "value" .bucket)
  (dict "name" "AWS_REGION" "value" .region)) -}}
{{- with .endpointUrl -}}
{{- $env = append $env (dict "name" "S3_ENDPOINT_URL" "value" .) -}}
{{- end -}}
{{- if .accessKeySecretRef -}}
{{- $env = concat $env (list
  (dict "name" "AWS_ACCESS_KEY_ID" "valueFrom" (dict "secretKeyRef" .accessKeySecretRef))
  (dict "name" "AWS_SECRET_ACCESS_KEY" "valueFrom" (dict "secretKeyRef" .secretKeySecretRef))) -}}
{{- end -}}
{{- end -}}
{{- toRawJson (concat $env ($spec.env | default list)) -}}
{{- end -}}
