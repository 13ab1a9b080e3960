{{/* Values that contradict each other end here, with a sentence. */}}

{{- define "comitia.checks" -}}
{{- $catalogue := include "comitia.catalogue" . | fromYaml -}}
{{- $postgres := .Values.postgres -}}
{{- if not $postgres.enabled -}}
  {{- if not $postgres.external.host -}}
    {{- fail "postgres.enabled is false, so postgres.external.host must name a server of Postgres 16 or newer." -}}
  {{- end -}}
  {{- if not $postgres.external.existingSecret -}}
    {{- fail "postgres.external.host is set, so postgres.external.existingSecret must name the Secret with the administrator's address, under the key postgres.external.key." -}}
  {{- end -}}
  {{- if and (hasPrefix "verify" $postgres.external.sslMode) (not $postgres.external.caSecret) -}}
    {{- fail (printf "postgres.external.sslMode is %s, so postgres.external.caSecret must name the Secret with the authorities (ca.crt) that the server is held against." $postgres.external.sslMode) -}}
  {{- end -}}
{{- else if $postgres.external.host -}}
  {{- fail "postgres.enabled is true and postgres.external.host is set; choose one of the two." -}}
{{- end -}}
{{- if and (not .Values.nats.enabled) (not .Values.nats.external.existingSecret) -}}
  {{- fail "nats.enabled is false, so nats.external.existingSecret must name the Secret with the address of NATS, under the key nats.external.key." -}}
{{- end -}}
{{- if and .Values.nats.enabled .Values.nats.external.existingSecret -}}
  {{- fail "nats.enabled is true and nats.external.existingSecret is set; choose one of the two." -}}
{{- end -}}
{{- if and .Values.milvus.enabled .Values.milvus.external.existingSecret -}}
  {{- fail "milvus.enabled is true and milvus.external.existingSecret is set; choose one of the two." -}}
{{- end -}}
{{- if not (or .Values.milvus.enabled .Values.milvus.external.existingSecret) -}}
  {{- fail "milvus.enabled is false, so milvus.external.existingSecret must name the Secret with the address of Milvus, under the key milvus.external.key." -}}
{{- end -}}
{{- if and .Values.localModel.enabled (hasKey (dig "settings" dict .Values.services.inference) "local_model_url") -}}
  {{- fail "localModel.enabled is true and services.inference.settings.local_model_url is set; choose one of the two." -}}
{{- end -}}
{{- range $service, $_ := $catalogue -}}
  {{- $values := include "comitia.valuesOf" (dict "root" $ "service" $service) | fromYaml -}}
  {{- $least := int (include "comitia.least" $values) -}}
  {{- $most := ternary (int $values.autoscaling.maxReplicas) $least $values.autoscaling.enabled -}}
  {{- if lt $least 1 -}}
    {{- fail (printf "services.%s would have no replica; the mesh needs at least one of each service." $service) -}}
  {{- end -}}
  {{- if lt $most $least -}}
    {{- fail (printf "services.%s.autoscaling.maxReplicas (%d) is less than minReplicas (%d)." $service $most $least) -}}
  {{- end -}}
  {{- if and $values.autoscaling.enabled (not $values.autoscaling.cpuPercent) (not $values.autoscaling.queue.items) (ne $values.autoscaling.kind "keda") -}}
    {{- fail (printf "services.%s.autoscaling is enabled and has nothing to go by; set cpuPercent or queue.items." $service) -}}
  {{- end -}}
  {{- if and $values.autoscaling.enabled (eq $values.autoscaling.kind "keda") (not $values.autoscaling.keda.prometheus) (or $values.autoscaling.queue.items (not $values.autoscaling.cpuPercent)) -}}
    {{- fail (printf "services.%s.autoscaling.kind is keda and queues are to be watched, so autoscaling.keda.prometheus must be the address of a Prometheus." $service) -}}
  {{- end -}}
  {{- if and $values.autoscaling.quietHours.enabled (not (and $values.autoscaling.enabled (eq $values.autoscaling.kind "keda"))) -}}
    {{- fail (printf "services.%s.autoscaling.quietHours needs autoscaling.enabled and autoscaling.kind keda: nothing else goes by the clock." $service) -}}
  {{- end -}}
  {{- if and $values.autoscaling.enabled $values.autoscaling.queue.items (not $values.autoscaling.queue.name) -}}
    {{- fail (printf "services.%s.autoscaling.queue.items is set, so autoscaling.queue.name must say which queue; all of them added up say nothing." $service) -}}
  {{- end -}}
  {{- if and $values.autoscaling.quietHours.enabled (gt (int $values.autoscaling.quietHours.replicas) $least) -}}
    {{- fail (printf "services.%s.autoscaling.quietHours.replicas (%d) is more than minReplicas (%d)." $service (int $values.autoscaling.quietHours.replicas) $least) -}}
  {{- end -}}
  {{- if and (gt $most 1) (eq (include "comitia.claim" (dict "root" $ "service" $service)) "true") -}}
    {{- fail (printf "services.%s has up to %d replicas, which must share one store; set %s.url to an object store, such as s3://bucket/prefix, or leave it at one replica." $service $most (ternary "auditStore" "objectStore" (eq $service "gateway"))) -}}
  {{- end -}}
  {{- $store := get (dict "gateway" "auditStore" "orchestrator" "objectStore") $service -}}
  {{- if and $store (dig $store "url" "" $.Values.AsMap) (not $.Values.networkPolicies.internet.enabled) $.Values.networkPolicies.enabled (not $values.extraEgress) -}}
    {{- fail (printf "%s.url is set and networkPolicies.internet.enabled is false, so services.%s.extraEgress must say where the store is, or nothing reaches it." $store $service) -}}
  {{- end -}}
  {{- range $name, $_ := $values.secretSettings -}}
    {{- if hasKey $values.settings $name -}}
      {{- fail (printf "services.%s sets %s under settings and under secretSettings; choose one of the two." $service $name) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range $server := list "postgres" "nats" "milvus" -}}
  {{- $values := index $.Values $server -}}
  {{- if $values.enabled -}}
    {{- $name := printf "%s-%s" (include "comitia.fullname" $) $server -}}
    {{- $found := lookup "apps/v1" "StatefulSet" $.Release.Namespace $name -}}
    {{- include "comitia.claimCheck" (dict "server" $server "name" $name "values" $values "found" $found) -}}
  {{- end -}}
{{- end -}}
{{- include "comitia.edgeChecks" . -}}
{{- include "comitia.certificateChecks" . -}}
{{- include "comitia.eastWestChecks" . -}}
{{- include "comitia.testChecks" . -}}
{{- end -}}

{{/* Takes (dict "server" "name" "values" "found"): a StatefulSet as the cluster has it, empty where it has none. */}}
{{- define "comitia.claimCheck" -}}
{{- if .found -}}
{{- $claim := (first .found.spec.volumeClaimTemplates).spec -}}
{{- $size := $claim.resources.requests.storage -}}
{{- if ne $size .values.size -}}
  {{- fail (printf "%s.size is %s, and the claim was made with %s, which Kubernetes changes in no StatefulSet; leave %[1]s.size at %[3]s, and let the claim itself grow if it is to be another size, for one size may be written in two ways, as 1024Mi and 1Gi: kubectl -n %s patch pvc data-%s-0 --type merge -p '{\"spec\":{\"resources\":{\"requests\":{\"storage\":\"%[2]s\"}}}}'" .server .values.size $size .found.metadata.namespace .name) -}}
{{- end -}}
{{- $class := $claim.storageClassName | default "" -}}
{{- if ne $class .values.storageClass -}}
  {{- fail (printf "%s.storageClass is %q, and the claim was made with %q, which Kubernetes changes in no StatefulSet; leave it as it was." .server .values.storageClass $class) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "comitia.certificateChecks" -}}
{{- with .Values.mtls -}}
{{- if and .enabled (eq .issuer.kind "ClusterIssuer") (not .issuer.name) -}}
  {{- fail "mtls.issuer.kind is ClusterIssuer, so mtls.issuer.name must name it; the authority that the release makes is an Issuer." -}}
{{- end -}}
{{- $duration := trimSuffix "h" .duration | int -}}
{{- if ge (trimSuffix "h" .renewBefore | int) $duration -}}
  {{- fail (printf "mtls.renewBefore (%s) must be less than mtls.duration (%s)." .renewBefore .duration) -}}
{{- end -}}
{{- if gt $duration (trimSuffix "h" .authorityDuration | int) -}}
  {{- fail (printf "mtls.duration (%s) is longer than the life of what signs it, mtls.authorityDuration (%s)." .duration .authorityDuration) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "comitia.eastWestChecks" -}}
{{- if .Values.eastWest.enabled -}}
{{- if not .Values.mtls.enabled -}}
  {{- fail "eastWest.enabled is true and mtls.enabled is false; services know by certificates who calls them through it, so mtls.enabled must be true." -}}
{{- end -}}
{{- if lt (int .Values.eastWest.replicas) 1 -}}
  {{- fail "eastWest.enabled is true and eastWest.replicas is 0; without it no service reaches another." -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "comitia.testChecks" -}}
{{- if .Values.tests.debate -}}
{{- if not (dig "settings" "stub_enabled" false .Values.services.inference) -}}
  {{- fail "tests.debate is true, so services.inference.settings.stub_enabled must be true: the debate is held on the model stub." -}}
{{- end -}}
{{- if and .Values.edge.tls.enabled (not .Values.tests.url) -}}
  {{- fail "tests.debate is true and the edge ends TLS, so tests.url must be an address that its certificate is for." -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "comitia.edgeChecks" -}}
{{- if and .Values.ingress.enabled .Values.gatewayApi.enabled -}}
  {{- fail "ingress.enabled and gatewayApi.enabled are both true; the edge is published by one of the two." -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
  {{- fail "ingress.enabled is true, so ingress.host must be the name at which the mesh is reached." -}}
{{- end -}}
{{- if and .Values.gatewayApi.enabled (not .Values.gatewayApi.host) -}}
  {{- fail "gatewayApi.enabled is true, so gatewayApi.host must be the name at which the mesh is reached." -}}
{{- end -}}
{{- if and .Values.gatewayApi.enabled (not .Values.gatewayApi.parentRefs) -}}
  {{- fail "gatewayApi.enabled is true, so gatewayApi.parentRefs must name the Gateway that the routes belong to." -}}
{{- end -}}
{{- $tls := .Values.edge.tls -}}
{{- if and .Values.gatewayApi.enabled $tls.enabled -}}
  {{- fail "gatewayApi.enabled and edge.tls.enabled are both true, and a Gateway would speak plain text to an edge that wants TLS; end TLS at the Gateway." -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.tlsSecret) (not .Values.edge.service.plainText) -}}
  {{- fail "ingress.enabled is true and ingress.tlsSecret is empty, so tokens would cross the network in plain text; name the Secret, or say edge.service.plainText: true where something in front ends TLS." -}}
{{- end -}}
{{- if and $tls.enabled (not $tls.existingSecret) (not $tls.issuer.name) -}}
  {{- fail "edge.tls.enabled is true, so edge.tls.existingSecret must name a Secret of type kubernetes.io/tls, or edge.tls.issuer.name an issuer of cert-manager." -}}
{{- end -}}
{{- if and $tls.existingSecret $tls.issuer.name -}}
  {{- fail "edge.tls.existingSecret and edge.tls.issuer.name are both set; choose one of the two." -}}
{{- end -}}
{{- if and $tls.issuer.name $tls.enabled (not $tls.hosts) -}}
  {{- fail "edge.tls.issuer.name is set, so edge.tls.hosts must list the names that the certificate is for." -}}
{{- end -}}
{{- if and (eq .Values.edge.service.type "LoadBalancer") (not $tls.enabled) (not .Values.edge.service.plainText) -}}
  {{- fail "edge.service.type is LoadBalancer and edge.tls.enabled is false, so tokens would cross the network in plain text; turn TLS on, or say edge.service.plainText: true where something in front ends TLS." -}}
{{- end -}}
{{- with .Values.edge.autoscaling -}}
{{- if and .enabled (lt (int .maxReplicas) (int .minReplicas)) -}}
  {{- fail (printf "edge.autoscaling.maxReplicas (%d) is less than minReplicas (%d)." (int .maxReplicas) (int .minReplicas)) -}}
{{- end -}}
{{- end -}}
{{- if lt (int (include "comitia.least" .Values.edge)) 1 -}}
  {{- fail "edge.replicas is 0; without the edge nobody gets in." -}}
{{- end -}}
{{- end -}}
