{{/* One of the seven: everything that the cluster has to know of it. Takes (dict "root" "service"). */}}

{{/* Values of a service: its own over those of all. */}}
{{- define "comitia.valuesOf" -}}
{{- mergeOverwrite (deepCopy .root.Values.serviceDefaults) (deepCopy (index .root.Values.services .service)) | toYaml -}}
{{- end -}}

{{/* Least replicas that a service has. Takes its values. */}}
{{- define "comitia.least" -}}
{{- if .autoscaling.enabled -}}{{ .autoscaling.minReplicas }}{{- else -}}{{ .replicas }}{{- end -}}
{{- end -}}

{{- define "comitia.service" -}}
{{- $root := .root -}}
{{- $service := .service -}}
{{- $fullname := include "comitia.fullname" $root -}}
{{- $facts := index (include "comitia.catalogue" $root | fromYaml) $service -}}
{{- $values := include "comitia.valuesOf" . | fromYaml -}}
{{- $claims := eq (include "comitia.claim" .) "true" -}}
{{- $at := dict "root" $root "part" $service "values" $values "least" (include "comitia.least" $values) -}}
{{- $tls := $root.Values.mtls.enabled -}}
{{- $authorities := include "comitia.postgresAuthorities" $root -}}
---
apiVersion: apps/v1
kind: {{ ternary "StatefulSet" "Deployment" (hasKey $facts "stateful") }}
metadata:
  {{- include "comitia.metadata" $at | nindent 2 }}
spec:
  {{- if not $values.autoscaling.enabled }}
  replicas: {{ $values.replicas }}
  {{- end }}
  {{- if hasKey $facts "stateful" }}
  serviceName: {{ $fullname }}-{{ $service }}
  podManagementPolicy: Parallel
  {{- else if $claims }}
  # Two pods cannot write one folder.
  strategy: {type: Recreate}
  {{- else }}
  strategy:
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  {{- end }}
  minReadySeconds: {{ $values.minReadySeconds }}
  revisionHistoryLimit: 5
  selector:
    matchLabels:
      {{- include "comitia.selector" $at | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "comitia.podLabels" $at | nindent 8 }}
      {{- with $values.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      {{- include "comitia.placement" $at | nindent 6 }}
      securityContext:
        {{- include "comitia.podSecurity" $at | nindent 8 }}
      # It serves on for 5 seconds until callers know; calls that run then have drainSeconds; after that background work is handed over and connections are closed.
      terminationGracePeriodSeconds: {{ add 5 $values.drainSeconds 15 }}
      {{- $image := include "comitia.image" (dict "root" $root "service" $service "digest" $values.digest) }}
      {{- if eq $service "gateway" }}
      initContainers:
        # The gateway writes this file when its keys change, and wants it to be there before.
        - name: key-set
          image: {{ $image }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          args: [python, -c, "import shutil; shutil.copyfile('/etc/comitia/keys/jwks.json', '/var/lib/comitia/jwks.json')"]
          securityContext:
            {{- include "comitia.containerSecurity" $at | nindent 12 }}
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          volumeMounts:
            - {name: keys, mountPath: /etc/comitia/keys, readOnly: true}
            - {name: state, mountPath: /var/lib/comitia}
      {{- end }}
      containers:
        - name: {{ $service }}
          image: {{ $image }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          args: [python, -m, services.{{ $service }}]
          securityContext:
            {{- include "comitia.containerSecurity" $at | nindent 12 }}
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          ports:
            - {name: grpc, containerPort: {{ $facts.port }}}
            - {name: metrics, containerPort: {{ $facts.metrics }}}
            {{- with $facts.doors }}
            - {name: doors, containerPort: {{ . }}}
            {{- end }}
          env:
            {{- include "comitia.serviceEnvironment" (dict "root" $root "service" $service "facts" $facts "values" $values) | nindent 12 }}
          {{- with $values.envFrom }}
          envFrom:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- range $probe, $of := dict "startupProbe" "live" "readinessProbe" "ready" "livenessProbe" "live" }}
          {{ $probe }}:
            {{- if eq $of "live" }}
            # Whether its loop answers: a service that waits for another need not be started anew.
            httpGet: {path: /live, port: metrics}
            {{- else if $tls }}
            # Of gRPC the kubelet cannot ask: it has no certificate to show.
            httpGet: {path: /{{ $of }}, port: metrics}
            {{- else }}
            grpc: {port: {{ $facts.port }}}
            {{- end }}
            {{- toYaml (index $values.probes $probe) | nindent 12 }}
          {{- end }}
          volumeMounts:
            - {name: keys, mountPath: /etc/comitia/keys, readOnly: true}
            {{- if $tls }}
            - {name: certificate, mountPath: /etc/comitia/tls, readOnly: true}
            {{- end }}
            - {name: state, mountPath: /var/lib/comitia}
            {{- if $authorities }}
            - {name: postgres, mountPath: /etc/comitia/postgres, readOnly: true}
            {{- end }}
            {{- if $claims }}
            - {name: store, mountPath: /var/lib/comitia-store}
            {{- end }}
            - {name: tmp, mountPath: /tmp}
            {{- with $values.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - name: keys
          projected:
            defaultMode: 0440
            sources:
              - secret: {name: {{ $fullname }}-{{ $service }}-keys}
              - secret: {name: {{ $fullname }}-public-keys}
        {{- if $tls }}
        - name: certificate
          secret: {secretName: {{ $fullname }}-{{ $service }}-tls, defaultMode: 0440}
        {{- end }}
        {{- with $authorities }}
        - name: postgres
          secret: {secretName: {{ . }}, defaultMode: 0440}
        {{- end }}
        - name: state
          emptyDir: {sizeLimit: {{ $values.stateSize }}}
        - name: tmp
          emptyDir: {sizeLimit: 256Mi}
        {{- if $claims }}
        - name: store
          persistentVolumeClaim: {claimName: {{ $fullname }}-{{ $service }}-store}
        {{- end }}
        {{- with $values.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
---
# Without an address of its own: callers see every replica, and balance calls over them.
apiVersion: v1
kind: Service
metadata:
  {{- include "comitia.metadata" $at | nindent 2 }}
spec:
  clusterIP: None
  selector:
    {{- include "comitia.selector" $at | nindent 4 }}
  ports:
    - {name: grpc, port: {{ $facts.port }}, targetPort: grpc, appProtocol: grpc}
    {{- with $facts.doors }}
    - {name: doors, port: {{ . }}, targetPort: doors, appProtocol: http}
    {{- end }}
    - {name: metrics, port: {{ $facts.metrics }}, targetPort: metrics, appProtocol: http}
{{- if $claims }}
{{- $store := get (dict "gateway" $root.Values.auditStore "orchestrator" $root.Values.objectStore) $service }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  {{- $kept := dict "helm.sh/resource-policy" "keep" }}
  {{- include "comitia.metadata" (merge (dict "name" (printf "%s-%s-store" $fullname $service) "annotations" $kept) $at) | nindent 2 }}
spec:
  accessModes: [ReadWriteOnce]
  {{- with $store.storageClass }}
  storageClassName: {{ . }}
  {{- end }}
  resources: {requests: {storage: {{ $store.size }}}}
{{- end }}
{{- include "comitia.disruptionBudget" $at }}
{{- end -}}

{{/* The environment of a service: what `comitia up` computes, under the same names. */}}
{{- define "comitia.serviceEnvironment" -}}
{{- $root := .root -}}
{{- $service := .service -}}
{{- $own := printf "COMITIA_%s_" (upper $service) -}}
{{- $fullname := include "comitia.fullname" $root -}}
{{- $catalogue := include "comitia.catalogue" $root | fromYaml -}}
{{- $ports := include "comitia.ports" $root | fromYaml -}}
{{- $name := printf "%s_%s" $root.Values.postgres.prefix $service -}}
{{- $database := printf "%s:%s/%s%s" (include "comitia.postgresHost" $root) (include "comitia.postgresPort" $root) $name (include "comitia.postgresQuery" $root) -}}
- {name: MALLOC_ARENA_MAX, value: "2"}
{{- if include "comitia.postgresAuthorities" $root }}
- {name: PGSSLROOTCERT, value: /etc/comitia/postgres/ca.crt}
{{- end }}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: APP_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $fullname }}-{{ $service }}-keys, key: app-password}}
- name: MAINTENANCE_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $fullname }}-{{ $service }}-keys, key: maintenance-password}}
- {name: {{ $own }}DATABASE_URL, value: "postgresql://{{ $name }}_app:$(APP_PASSWORD)@{{ $database }}"}
- {name: {{ $own }}MAINTENANCE_DATABASE_URL, value: "postgresql://{{ $name }}_maintenance:$(MAINTENANCE_PASSWORD)@{{ $database }}"}
- {name: {{ $own }}LISTEN, value: "0.0.0.0:{{ .facts.port }}"}
- {name: {{ $own }}METRICS_LISTEN, value: "0.0.0.0:{{ .facts.metrics }}"}
{{- with .facts.doors }}
- {name: {{ $own }}DOORS_LISTEN, value: "0.0.0.0:{{ . }}"}
{{- end }}
{{- if .facts.nats }}
- name: {{ $own }}NATS_URL
  {{- if $root.Values.nats.enabled }}
  valueFrom: {secretKeyRef: {name: {{ $fullname }}-nats-keys, key: url}}
  {{- else }}
  valueFrom: {secretKeyRef: {name: {{ $root.Values.nats.external.existingSecret }}, key: {{ $root.Values.nats.external.key }}}}
  {{- end }}
{{- end }}
- {name: {{ $own }}JWKS_PATH, value: /var/lib/comitia/jwks.json}
{{- if ne $service "gateway" }}
- {name: {{ $own }}JWKS_FROM_GATEWAY, value: "true"}
{{- end }}
- {name: {{ $own }}WORKLOAD_KEY_PATH, value: /etc/comitia/keys/workload.jwk}
- {name: {{ $own }}WORKLOAD_JWKS_PATH, value: /etc/comitia/keys/workload_jwks.json}
- {name: {{ $own }}KEK_PATH, value: /etc/comitia/keys/kek}
- {name: {{ $own }}GUARD_PATH, value: /var/lib/comitia/guard}
{{- range $neighbour, $facts := $catalogue }}
- {name: {{ $own }}{{ upper $neighbour }}_TARGET, value: "{{ $fullname }}-{{ $neighbour }}:{{ $facts.port }}"}
{{- end }}
{{- if $root.Values.mtls.enabled }}
- {name: {{ $own }}TLS_CERT_PATH, value: /etc/comitia/tls/tls.crt}
- {name: {{ $own }}TLS_KEY_PATH, value: /etc/comitia/tls/tls.key}
- {name: {{ $own }}TLS_CA_PATH, value: /etc/comitia/tls/ca.crt}
{{- end }}
{{- if and $root.Values.eastWest.enabled (ne $root.Values.eastWest.calls "beside") }}
- {name: {{ $own }}EAST_WEST_TARGET, value: "{{ $fullname }}-east-west:{{ index (include "comitia.ports" $root | fromYaml) "east-west" }}"}
{{- end }}
- {name: {{ $own }}EDGE_NETWORKS, value: {{ toJson $root.Values.edge.networks | quote }}}
- {name: {{ $own }}LOG_LEVEL, value: {{ .values.logLevel }}}
# Envoy asks every second how a service is.
- {name: {{ $own }}NOTICE_SECONDS, value: "5"}
- {name: {{ $own }}DRAIN_SECONDS, value: {{ .values.drainSeconds | int64 | quote }}}
{{- with $root.Values.monitoring.otlpEndpoint }}
- {name: {{ $own }}OTLP_ENDPOINT, value: {{ . | quote }}}
{{- end }}
{{- if eq $service "gateway" }}
- {name: {{ $own }}SIGNING_KEY_PATH, value: /etc/comitia/keys/signing.jwk}
- {name: {{ $own }}BOOTSTRAP_KEY_PATH, value: /etc/comitia/keys/admin.key}
- {name: {{ $own }}AUDIT_KEY_PATH, value: /etc/comitia/keys/audit.jwk}
- {name: {{ $own }}AUDIT_JWKS_PATH, value: /etc/comitia/keys/audit_jwks.json}
- {name: {{ $own }}AUDIT_STORE, value: {{ $root.Values.auditStore.url | default "/var/lib/comitia-store/audit" | quote }}}
{{- end }}
{{- if eq $service "orchestrator" }}
- {name: {{ $own }}REPLICA, value: "$(POD_NAME)"}
- {name: {{ $own }}PEER_ADDRESS, value: "$(POD_IP):{{ .facts.port }}"}
- {name: {{ $own }}OBJECT_STORE, value: {{ $root.Values.objectStore.url | default "/var/lib/comitia-store/objects" | quote }}}
{{- end }}
{{- if eq $service "inference" }}
- {name: {{ $own }}REGISTRY_PATH, value: /var/lib/comitia/registry}
{{- if $root.Values.localModel.enabled }}
- {name: {{ $own }}LOCAL_MODEL_URL, value: "http://{{ $fullname }}-local-model:{{ index $ports "local-model" }}"}
{{- end }}
{{- end }}
{{- if eq $service "memory" }}
{{- if $root.Values.milvus.enabled }}
- {name: {{ $own }}MILVUS_URL, value: "http://{{ $fullname }}-milvus:{{ $ports.milvus }}"}
{{- else }}
- name: {{ $own }}MILVUS_URL
  valueFrom: {secretKeyRef: {name: {{ $root.Values.milvus.external.existingSecret }}, key: {{ $root.Values.milvus.external.key }}}}
{{- end }}
{{- end }}
{{- range $name, $value := .values.settings }}
- {name: {{ $own }}{{ upper $name }}, value: {{ ternary $value (toJson $value) (kindIs "string" $value) | quote }}}
{{- end }}
{{- range $name, $secret := .values.secretSettings }}
- name: {{ $own }}{{ upper $name }}
  valueFrom: {secretKeyRef: {{ toJson $secret }}}
{{- end }}
{{- end -}}
