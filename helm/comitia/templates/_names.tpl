{{/* What everything is called, and by what labels it is found. */}}

{{/* 63 letters are the most, and a StatefulSet adds 11 to the longest of our names. Services bear no dot. */}}
{{- define "comitia.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | replace "." "-" | trunc 38 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | replace "." "-" | trunc 38 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | replace "." "-" | trunc 38 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels by which pods of one part are chosen; never changed, since selectors cannot be. Takes (dict "root" "part"). */}}
{{- define "comitia.selector" -}}
app.kubernetes.io/name: comitia
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{- define "comitia.labels" -}}
{{ include "comitia.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: comitia
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of pods: none that changes with each release of the chart, or an upgrade would start anew what it need not. */}}
{{- define "comitia.podLabels" -}}
{{ include "comitia.selector" . }}
app.kubernetes.io/part-of: comitia
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* metadata of an object. Takes (dict "root" "part") and optionally "name", "annotations". */}}
{{- define "comitia.metadata" -}}
name: {{ .name | default (printf "%s-%s" (include "comitia.fullname" .root) .part) }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "comitia.labels" . | nindent 2 }}
{{- with .annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Reference of one of our images. Takes (dict "root" "service" "digest"); a digest wins over the tag. */}}
{{- define "comitia.image" -}}
{{- $image := .root.Values.image -}}
{{- $name := printf "%s/%s/comitia-%s" $image.registry $image.repository .service -}}
{{- if .digest -}}{{ $name }}@{{ .digest }}{{- else -}}{{ $name }}:{{ $image.tag | default .root.Chart.AppVersion }}{{- end -}}
{{- end -}}

{{/* Reference of an image of others. Takes (dict "root" "image"); `image.mirror` stands in for its registry. */}}
{{- define "comitia.otherImage" -}}
{{- $registry := .root.Values.image.mirror | default .image.registry -}}
{{- $name := printf "%s/%s" $registry .image.repository -}}
{{- if .image.digest -}}{{ $name }}@{{ .image.digest }}{{- else -}}{{ $name }}:{{ .image.tag }}{{- end -}}
{{- end -}}

{{/* The seven services, what they listen on and whom they call. A test holds this against the code. */}}
{{- define "comitia.catalogue" -}}
gateway:
  port: 7401
  metrics: 7411
  internet: true
  calls: [gateway, orchestrator, inference, policy, memory, tools, cost]
orchestrator:
  port: 7402
  metrics: 7412
  nats: true
  # Each replica has a name that it keeps, by which it takes up its own runs.
  stateful: true
  calls: [gateway, orchestrator, inference, policy, memory, tools, cost]
  # Its replicas lend each other workers, each at its own address, whatever stands between services.
  direct: [orchestrator]
inference:
  port: 7403
  metrics: 7413
  doors: 7408
  internet: true
  calls: [gateway, policy, cost]
policy:
  port: 7404
  metrics: 7414
  nats: true
  calls: [gateway]
memory:
  port: 7405
  metrics: 7415
  calls: [gateway, policy, inference]
tools:
  port: 7406
  metrics: 7416
  internet: true
  calls: [gateway, policy, cost, inference]
cost:
  port: 7407
  metrics: 7417
  nats: true
  calls: [gateway]
{{- end -}}

{{/* Ports of what stands beside them. A test holds those of our own programs against the code. */}}
{{- define "comitia.ports" -}}
edge: 7400
east-west: 7409
edge-metrics: 7410
keeper: 7498
local-model: 7450
milvus: 19530
nats: 4222
postgres: 5432
{{- end -}}

{{/* Port of an address, or else that of its scheme. */}}
{{- define "comitia.portOf" -}}
{{- $url := urlParse . -}}
{{- regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (ternary "443" "80" (eq $url.scheme "https")) -}}
{{- end -}}

{{/* Names of a service's stores as folders: those that a claim holds because no object store is named. */}}
{{- define "comitia.claim" -}}
{{- $stores := dict "gateway" .root.Values.auditStore "orchestrator" .root.Values.objectStore -}}
{{- if and (hasKey $stores .service) (not (get $stores .service).url) -}}true{{- end -}}
{{- end -}}

{{- define "comitia.postgresHost" -}}
{{- if .Values.postgres.enabled -}}{{ include "comitia.fullname" . }}-postgres{{- else -}}{{ .Values.postgres.external.host }}{{- end -}}
{{- end -}}
{{- define "comitia.postgresPort" -}}
{{- if .Values.postgres.enabled -}}{{ (include "comitia.ports" . | fromYaml).postgres }}{{- else -}}{{ .Values.postgres.external.port }}{{- end -}}
{{- end -}}
{{/* Secret of the authorities of Postgres, where it is verified; mounted at /etc/comitia/postgres. */}}
{{- define "comitia.postgresAuthorities" -}}
{{- if not .Values.postgres.enabled -}}{{ .Values.postgres.external.caSecret }}{{- end -}}
{{- end -}}
{{- define "comitia.postgresQuery" -}}
{{- if and (not .Values.postgres.enabled) .Values.postgres.external.sslMode -}}?sslmode={{ .Values.postgres.external.sslMode }}{{- end -}}
{{- end -}}
