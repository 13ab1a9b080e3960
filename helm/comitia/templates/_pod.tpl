{{/* What every pod and container of the chart has in common. */}}

{{/* Takes (dict "root" "user"): what Pod Security `restricted` asks of a pod. */}}
{{- define "comitia.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .user | default .root.Values.podSecurity.user }}
runAsGroup: {{ .user | default .root.Values.podSecurity.user }}
fsGroup: {{ .user | default .root.Values.podSecurity.user }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "comitia.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where pods of a part may run. Takes (dict "root" "part" "values"). */}}
{{- define "comitia.placement" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with .values.affinity }}
affinity: {{ toJson . }}
{{- end }}
{{- if .root.Values.spread.enabled }}
topologySpreadConstraints:
  {{- range .root.Values.spread.over }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: {{ $.root.Values.spread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "comitia.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* A budget of disruptions for parts with several replicas. Takes (dict "root" "part" "values" "least"). */}}
{{- define "comitia.disruptionBudget" -}}
{{- if and .root.Values.disruptionBudgets.enabled (gt (int .least) 1) }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "comitia.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "comitia.selector" . | nindent 6 }}
{{- end }}
{{- end -}}
