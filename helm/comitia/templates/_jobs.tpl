{{/* Jobs that run before the services: keys and migrations. */}}

{{/* annotations of a hook. Takes (dict "when" "weight"); of a test the pods stay, so that their logs can be read. */}}
{{- define "comitia.hook" -}}
helm.sh/hook: {{ .when }}
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: before-hook-creation{{ if ne .when "test" }},hook-succeeded{{ end }}
{{- end -}}

{{/* Pod of a job in the launcher's image. Takes (dict "root" "part" "args" "env" "mounts" "volumes" "token"). */}}
{{- define "comitia.jobPod" -}}
metadata:
  labels:
    {{- include "comitia.podLabels" . | nindent 4 }}
spec:
  restartPolicy: OnFailure
  automountServiceAccountToken: {{ .token | default false }}
  {{- if .token }}
  serviceAccountName: {{ include "comitia.fullname" .root }}-{{ .part }}
  {{- end }}
  enableServiceLinks: false
  {{- with .root.Values.image.pullSecrets }}
  imagePullSecrets: {{ toJson . }}
  {{- end }}
  securityContext:
    {{- include "comitia.podSecurity" . | nindent 4 }}
  containers:
    - name: {{ .part }}
      image: {{ include "comitia.image" (dict "root" .root "service" "launcher" "digest" .root.Values.launcher.digest) }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      args: {{ toJson .args }}
      securityContext:
        {{- include "comitia.containerSecurity" . | nindent 8 }}
      resources:
        {{- toYaml .root.Values.launcher.resources | nindent 8 }}
      env:
        {{- toYaml .env | nindent 8 }}
      volumeMounts:
        - {name: state, mountPath: /var/lib/comitia}
        - {name: tmp, mountPath: /tmp}
        {{- with .mounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: state
      emptyDir: {sizeLimit: 16Mi}
    - name: tmp
      emptyDir: {sizeLimit: 64Mi}
    {{- with .volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* Makes the seven databases and migrates them. Takes (dict "root" "phase"): `expand` brings what this release needs while
     the one before goes on, `contract` takes away what only that one needed. */}}
{{- define "comitia.migrationSpec" -}}
{{- $root := .root -}}
{{- $phase := .phase -}}
{{- with $root -}}
{{- $fullname := include "comitia.fullname" . -}}
{{- $external := .Values.postgres.external -}}
{{- $env := list (dict "name" "COMITIA_DATA_DIR" "value" "/var/lib/comitia") -}}
{{- if .Values.postgres.enabled -}}
{{- $password := dict "secretKeyRef" (dict "name" (printf "%s-postgres-keys" $fullname) "key" "password") -}}
{{- $url := printf "postgresql://postgres:$(POSTGRES_PASSWORD)@%s:%s/postgres" (include "comitia.postgresHost" .) (include "comitia.postgresPort" .) -}}
{{- $env = concat $env (list (dict "name" "POSTGRES_PASSWORD" "valueFrom" $password) (dict "name" "COMITIA_POSTGRES_URL" "value" $url)) -}}
{{- else -}}
{{- $url := dict "secretKeyRef" (dict "name" $external.existingSecret "key" $external.key) -}}
{{- $env = append $env (dict "name" "COMITIA_POSTGRES_URL" "valueFrom" $url) -}}
{{- end -}}
{{- $env = append $env (dict "name" "COMITIA_DATABASE_PREFIX" "value" .Values.postgres.prefix) -}}
{{- $mounts := list (dict "name" "passwords" "mountPath" "/var/lib/comitia/secrets.json" "subPath" "secrets.json" "readOnly" true) -}}
{{- $volumes := list (dict "name" "passwords" "secret" (dict "secretName" (printf "%s-database-keys" $fullname) "defaultMode" 288)) -}}
{{- with include "comitia.postgresAuthorities" . -}}
{{- $env = append $env (dict "name" "PGSSLROOTCERT" "value" "/etc/comitia/postgres/ca.crt") -}}
{{- $mounts = append $mounts (dict "name" "postgres" "mountPath" "/etc/comitia/postgres" "readOnly" true) -}}
{{- $volumes = append $volumes (dict "name" "postgres" "secret" (dict "secretName" . "defaultMode" 288)) -}}
{{- end -}}
backoffLimit: {{ .Values.migration.retries }}
activeDeadlineSeconds: {{ int64 .Values.migration.deadlineSeconds }}
template:
  {{- $args := list "python" "-m" "services.launcher.migrate" "--phase" $phase "--wait-seconds" (.Values.migration.waitSeconds | int64 | toString) }}
  {{- include "comitia.jobPod" (dict "root" . "part" "migrate" "args" $args "env" $env "mounts" $mounts "volumes" $volumes) | nindent 2 }}
{{- end -}}
{{- end -}}
