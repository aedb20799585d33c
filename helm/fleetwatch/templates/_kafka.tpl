{{/* How a role speaks to Kafka. All take (list $ role); a role's own kafka.* wins over the chart's. */}}

{{- define "fleetwatch.strimziCluster" -}}
{{- .Values.strimzi.clusterName | default (include "fleetwatch.fullname" .) }}
{{- end }}

{{- define "fleetwatch.bootstrap" -}}
{{- if .Values.kafka.bootstrap }}
{{- .Values.kafka.bootstrap }}
{{- else if .Values.strimzi.enabled }}
{{- $namespace := .Values.strimzi.namespace | default .Release.Namespace }}
{{- printf "%s-kafka-bootstrap.%s.svc:%d" (include "fleetwatch.strimziCluster" .) $namespace (int .Values.strimzi.cluster.port) }}
{{- end }}
{{- end }}

{{/* The security protocol: TLS where the chart's own Strimzi cluster has it and nothing else is said. */}}
{{- define "fleetwatch.protocol" -}}
{{- $s := .Values.strimzi -}}
{{- if and $s.enabled $s.cluster.create $s.cluster.tls (eq .Values.kafka.securityProtocol "PLAINTEXT") }}SSL
{{- else }}{{ .Values.kafka.securityProtocol }}{{ end }}
{{- end }}

{{- define "fleetwatch.kafkaSecret" -}}
{{- $root := index . 0 }}{{ $role := index . 1 }}
{{- $role.kafka.existingSecret | default $root.Values.kafka.existingSecret }}
{{- end }}

{{/* Secret of the authority that a cluster of our own signs with; empty = none. */}}
{{- define "fleetwatch.caSecret" -}}
{{- $s := .Values.strimzi -}}
{{- if .Values.kafka.ca.existingSecret }}{{ .Values.kafka.ca.existingSecret }}
{{- else if and $s.enabled $s.cluster.create $s.cluster.tls (not .Values.kafka.ca.existingConfigMap) }}
{{- printf "%s-cluster-ca-cert" (include "fleetwatch.strimziCluster" .) }}
{{- end }}
{{- end }}

{{/* Files of the login, by name in the pod -> key in the Secret, as YAML. */}}
{{- define "fleetwatch.kafkaFiles" -}}
{{- $root := index . 0 }}{{ $keys := $root.Values.kafka.secretKeys }}
{{- $protocol := include "fleetwatch.protocol" $root }}
{{- $files := dict }}
{{- if include "fleetwatch.kafkaSecret" . }}
{{- if and (hasPrefix "SASL" $protocol) $keys.password }}{{ $_ := set $files "password" $keys.password }}{{ end }}
{{- if and (hasSuffix "SSL" $protocol) $keys.certificate }}
{{- $_ := set $files "certificate.pem" $keys.certificate }}
{{- $_ := set $files "key.pem" $keys.key }}
{{- if $keys.keyPassword }}{{ $_ := set $files "key-password" $keys.keyPassword }}{{ end }}
{{- end }}
{{- end }}
{{- toYaml $files }}
{{- end }}

{{- define "fleetwatch.kafkaEnv" -}}
{{- $root := index . 0 }}{{ $role := index . 1 }}{{ $kafka := $root.Values.kafka }}
{{- $protocol := include "fleetwatch.protocol" $root }}
{{- $files := include "fleetwatch.kafkaFiles" . | fromYaml }}
- name: FLEETWATCH_KAFKA__BOOTSTRAP
  value: {{ include "fleetwatch.bootstrap" $root | quote }}
- name: FLEETWATCH_KAFKA__SECURITY_PROTOCOL
  value: {{ $protocol }}
{{- if hasPrefix "SASL" $protocol }}
- name: FLEETWATCH_KAFKA__SASL_MECHANISM
  value: {{ $kafka.saslMechanism }}
- name: FLEETWATCH_KAFKA__SASL_USERNAME
  {{- if or $role.kafka.username $kafka.username }}
  value: {{ $role.kafka.username | default $kafka.username | quote }}
  {{- else }}
  valueFrom:
    secretKeyRef:
      name: {{ include "fleetwatch.kafkaSecret" . }}
      key: {{ $kafka.secretKeys.username }}
  {{- end }}
- name: FLEETWATCH_KAFKA__SASL_PASSWORD_FILE
  value: /etc/fleetwatch/kafka/password
{{- end }}
{{- if hasSuffix "SSL" $protocol }}
{{- if or (include "fleetwatch.caSecret" $root) $kafka.ca.existingConfigMap }}
- name: FLEETWATCH_KAFKA__SSL_CA
  value: /etc/fleetwatch/kafka/ca.pem
{{- end }}
{{- if hasKey $files "certificate.pem" }}
- name: FLEETWATCH_KAFKA__SSL_CERTIFICATE
  value: /etc/fleetwatch/kafka/certificate.pem
- name: FLEETWATCH_KAFKA__SSL_KEY
  value: /etc/fleetwatch/kafka/key.pem
{{- end }}
{{- if hasKey $files "key-password" }}
- name: FLEETWATCH_KAFKA__SSL_KEY_PASSWORD_FILE
  value: /etc/fleetwatch/kafka/key-password
{{- end }}
{{- end }}
{{- end }}

{{/* Sources of the projected volume; empty = there are none, and no volume. */}}
{{- define "fleetwatch.kafkaSources" -}}
{{- $root := index . 0 }}{{ $kafka := $root.Values.kafka }}
{{- $files := include "fleetwatch.kafkaFiles" . | fromYaml }}
{{- if $files }}
- secret:
    name: {{ include "fleetwatch.kafkaSecret" . }}
    items:
      {{- range $path, $key := $files }}
      - {key: {{ $key | quote }}, path: {{ $path }}}
      {{- end }}
{{- end }}
{{- if hasSuffix "SSL" (include "fleetwatch.protocol" $root) }}
{{- if include "fleetwatch.caSecret" $root }}
- secret:
    name: {{ include "fleetwatch.caSecret" $root }}
    items:
      - {key: {{ $kafka.ca.key | quote }}, path: ca.pem}
{{- else if $kafka.ca.existingConfigMap }}
- configMap:
    name: {{ $kafka.ca.existingConfigMap }}
    items:
      - {key: {{ $kafka.ca.key | quote }}, path: ca.pem}
{{- end }}
{{- end }}
{{- end }}
