{{/* A Deployment of Envoy that is rendered and kept by a module of the launcher. Takes (dict "root" "part" "values" "module" "port" "metrics" "wishes" "volumes"). */}}
{{- define "comitia.envoy" -}}
{{- $fullname := include "comitia.fullname" .root -}}
{{- $own := include "comitia.image" (dict "root" .root "service" "launcher" "digest" .root.Values.launcher.digest) -}}
{{- $keeper := (include "comitia.ports" .root | fromYaml).keeper -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "comitia.metadata" . | nindent 2 }}
spec:
  {{- if not (dig "autoscaling" "enabled" false .values) }}
  replicas: {{ .values.replicas }}
  {{- end }}
  strategy:
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  revisionHistoryLimit: 5
  selector:
    matchLabels:
      {{- include "comitia.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "comitia.podLabels" . | nindent 8 }}
      annotations:
        # The configuration is read once, so another one is another pod.
        comitia.io/settings: {{ toJson .wishes | sha256sum | trunc 16 | quote }}
    spec:
      {{- include "comitia.placement" . | nindent 6 }}
      securityContext:
        {{- include "comitia.podSecurity" . | nindent 8 }}
      # Its drain, and a little for whoever is still told of it.
      terminationGracePeriodSeconds: {{ add .values.drainSeconds 15 }}
      initContainers:
        - name: render
          image: {{ $own }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args: [python, -m, services.launcher.{{ .module }}, render]
          securityContext:
            {{- include "comitia.containerSecurity" . | nindent 12 }}
          resources:
            {{- toYaml .root.Values.launcher.resources | nindent 12 }}
          volumeMounts: &mounts
            - {name: wishes, mountPath: /etc/comitia/{{ .part }}, readOnly: true}
            {{- if .root.Values.mtls.enabled }}
            - {name: mesh-tls, mountPath: /etc/comitia/mesh-tls, readOnly: true}
            {{- end }}
            {{- range .volumes }}
            - {name: {{ .name }}, mountPath: {{ .mountPath }}, readOnly: true}
            {{- end }}
            - {name: envoy, mountPath: /var/lib/comitia}
            - {name: tmp, mountPath: /tmp}
      containers:
        - name: envoy
          image: {{ include "comitia.otherImage" (dict "root" .root "image" .values.image) }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args:
            - --config-path
            - /var/lib/comitia/{{ .part }}.json
            # By itself it takes a thread for each processor of the node, each with buffers and connections of its own.
            - --concurrency
            - {{ include "comitia.envoyThreads" .values | quote }}
            - --drain-time-s
            - {{ .values.drainSeconds | int64 | quote }}
            - --disable-hot-restart
            - --log-level
            - {{ .values.logLevel }}
          securityContext:
            {{- include "comitia.containerSecurity" . | nindent 12 }}
          resources:
            {{- toYaml .values.resources | nindent 12 }}
          ports:
            - {name: {{ .part }}, containerPort: {{ .port }}}
          # The keeper drains when SIGTERM comes, and answers when calls have ended, or after drainSeconds; only then is
          # Envoy told to stop. By its number: names of ports are those of a container's own.
          lifecycle:
            preStop:
              httpGet: {path: /drained, port: {{ $keeper }}}
          volumeMounts: *mounts
        - name: keeper
          image: {{ $own }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args: [python, -m, services.launcher.{{ .module }}, keep]
          securityContext:
            {{- include "comitia.containerSecurity" . | nindent 12 }}
          resources:
            {{- toYaml .root.Values.launcher.resources | nindent 12 }}
          ports:
            - {name: keeper, containerPort: {{ $keeper }}}
            - {name: metrics, containerPort: {{ .metrics }}}
          readinessProbe:
            httpGet: {path: /ready, port: keeper}
            periodSeconds: 3
            failureThreshold: 2
          livenessProbe:
            httpGet: {path: /live, port: keeper}
            periodSeconds: 20
            failureThreshold: 3
          volumeMounts: *mounts
      volumes:
        - name: wishes
          configMap: {name: {{ $fullname }}-{{ .part }}}
        {{- if .root.Values.mtls.enabled }}
        - name: mesh-tls
          secret: {secretName: {{ $fullname }}-{{ .part }}-tls, defaultMode: 0440}
        {{- end }}
        {{- range .volumes }}
        - name: {{ .name }}
          secret: {secretName: {{ .secret }}, defaultMode: 0440}
        {{- end }}
        - name: envoy
          emptyDir: {sizeLimit: 64Mi}
        - name: tmp
          emptyDir: {sizeLimit: 64Mi}
{{- end -}}

{{/* Threads of Envoy. Takes the values of the Envoy. */}}
{{- define "comitia.envoyThreads" -}}
{{- $cpu := dig "limits" "cpu" "" .resources | toString -}}
{{- if .concurrency -}}
{{- int .concurrency -}}
{{- else if hasSuffix "m" $cpu -}}
{{- divf (trimSuffix "m" $cpu) 1000 | ceil | int -}}
{{- else -}}
{{- float64 ($cpu | default "2") | ceil | int -}}
{{- end -}}
{{- end -}}
