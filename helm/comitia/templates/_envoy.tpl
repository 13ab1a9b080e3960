{{/* A Deployment of Envoy that is rendered and kept by a module of the launcher. Takes (dict "root" "part" "values" "module" "port" "tls" "volumes"). */}}
{{- define "comitia.envoy" -}}
{{- $fullname := include "comitia.fullname" .root -}}
{{- $own := include "comitia.image" (dict "root" .root "service" "launcher" "digest" .root.Values.launcher.digest) -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "comitia.metadata" . | nindent 2 }}
spec:
  replicas: {{ .values.replicas }}
  strategy:
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  revisionHistoryLimit: 5
  selector:
    matchLabels:
      {{- include "comitia.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "comitia.labels" . | nindent 8 }}
      annotations:
        # The configuration is read once, so another one is another pod.
        comitia.io/tls: {{ .tls }}
        comitia.io/settings: {{ toJson .values | sha256sum | trunc 16 | quote }}
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
              httpGet: {path: /drained, port: 7498}
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
            - {name: keeper, containerPort: 7498}
            - {name: metrics, containerPort: 7410}
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
