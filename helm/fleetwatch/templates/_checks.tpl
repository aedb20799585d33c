{{/* What the schema cannot say: refused with a message before anything is changed. */}}

{{- define "fleetwatch.checks" -}}
{{- $v := .Values }}{{ $k := $v.kafka }}{{ $a := $v.autoscaling }}
{{- $protocol := include "fleetwatch.protocol" . }}
{{- $partitions := include "fleetwatch.partitions" . | int }}
{{- $problems := list }}
{{- if not (include "fleetwatch.bootstrap" .) }}
{{- $problems = append $problems "kafka.bootstrap: say where Kafka is (host:port,host:port), or set strimzi.enabled" }}
{{- end }}
{{- if hasPrefix "SASL" $protocol }}
{{- range $name, $role := include "fleetwatch.roles" . | fromYaml }}
{{- if not (include "fleetwatch.kafkaSecret" (list $ $role)) }}
{{- $problems = append $problems (printf "kafka.existingSecret (or %s.kafka.existingSecret): %s needs a Secret with the password" $name $protocol) }}
{{- end }}
{{- if not (or $role.kafka.username $k.username $k.secretKeys.username) }}
{{- $problems = append $problems (printf "kafka.username, %s.kafka.username or kafka.secretKeys.username: %s needs one" $name $protocol) }}
{{- end }}
{{- end }}
{{- if not $k.secretKeys.password }}
{{- $problems = append $problems "kafka.secretKeys.password: which key of the Secret holds the password?" }}
{{- end }}
{{- if and (eq $protocol "SASL_PLAINTEXT") (eq $k.saslMechanism "PLAIN") }}
{{- $problems = append $problems "kafka.saslMechanism PLAIN with SASL_PLAINTEXT would send the password in clear: use SASL_SSL, or SCRAM" }}
{{- end }}
{{- end }}
{{- if and (hasPrefix "SASL" $k.securityProtocol | not) (or $k.username $v.worker.kafka.username) }}
{{- $problems = append $problems (printf "kafka.username is not used with kafka.securityProtocol %s: set it to SASL_SSL" $k.securityProtocol) }}
{{- end }}
{{- if and (not (hasSuffix "SSL" $protocol)) (or $k.ca.existingSecret $k.ca.existingConfigMap $k.secretKeys.certificate) }}
{{- $problems = append $problems (printf "kafka.ca or kafka.secretKeys.certificate given, but with kafka.securityProtocol %s nothing would be encrypted: set it to SSL or SASL_SSL" $protocol) }}
{{- end }}
{{- if ne (empty $k.secretKeys.certificate) (empty $k.secretKeys.key) }}
{{- $problems = append $problems "kafka.secretKeys.certificate and kafka.secretKeys.key are needed together" }}
{{- end }}
{{- if and $k.secretKeys.certificate (not (or $k.existingSecret $v.worker.kafka.existingSecret)) }}
{{- $problems = append $problems "kafka.existingSecret: kafka.secretKeys.certificate names a key of it" }}
{{- end }}
{{- if and $k.ca.existingSecret $k.ca.existingConfigMap }}
{{- $problems = append $problems "kafka.ca.existingSecret and kafka.ca.existingConfigMap are both set; one is enough" }}
{{- end }}
{{- if and $v.worker.cacheFrom (not $v.worker.cacheDir) }}
{{- $problems = append $problems "worker.cacheFrom is copied to worker.cacheDir, which is empty" }}
{{- end }}
{{- if and (eq $a.mode "none") (gt (int $v.worker.replicas) $partitions) }}
{{- $problems = append $problems (printf "worker.replicas %d is above settings.topics.partitions %d: the others would have nothing to do" (int $v.worker.replicas) $partitions) }}
{{- end }}
{{- if gt (int $a.maxReplicas) $partitions }}
{{- $problems = append $problems (printf "autoscaling.maxReplicas %d is above settings.topics.partitions %d: the others would have nothing to do; 0 = as many as partitions" (int $a.maxReplicas) $partitions) }}
{{- end }}
{{- if gt (int $a.minReplicas) (include "fleetwatch.maxReplicas" . | int) }}
{{- $problems = append $problems (printf "autoscaling.minReplicas %d is above the most there can be, %s (autoscaling.maxReplicas, settings.topics.partitions)" (int $a.minReplicas) (include "fleetwatch.maxReplicas" .)) }}
{{- end }}
{{- if eq $a.mode "hpa" }}
{{- if not (int $a.minReplicas) }}
{{- $problems = append $problems "autoscaling.minReplicas 0: a HorizontalPodAutoscaler on CPU cannot wake workers that are not there; use mode builtin or keda, or 1" }}
{{- end }}
{{- if not (dig "requests" "cpu" "" $v.worker.resources) }}
{{- $problems = append $problems "worker.resources.requests.cpu: autoscaling.mode hpa measures CPU as a share of it" }}
{{- end }}
{{- end }}
{{- if and $a.dryRun (ne $a.mode "builtin") }}
{{- $problems = append $problems (printf "autoscaling.dryRun is of autoscaling.mode builtin, not of %s" $a.mode) }}
{{- end }}
{{- if and $v.monitoring.podMonitor.enabled $v.monitoring.serviceMonitor.enabled }}
{{- $problems = append $problems "monitoring.podMonitor and monitoring.serviceMonitor would both scrape every pod: enable one" }}
{{- end }}
{{- if $v.forwarder.enabled }}
{{- if not $v.forwarder.url }}
{{- $problems = append $problems "forwarder.url: say where alerts are to be sent" }}
{{- end }}
{{- if and $v.forwarder.hmac.existingSecret (ne $v.forwarder.to "webhook") }}
{{- $problems = append $problems "forwarder.hmac signs what a webhook is sent; Alertmanager does not look at it" }}
{{- end }}
{{- end }}
{{- if and $v.topicsJob.acls (not $v.topicsJob.principals) }}
{{- $problems = append $problems "topicsJob.acls needs to know who does the work: topicsJob.principals, role: [User:name]" }}
{{- end }}
{{- if and $v.checkCapabilities }}
{{- range $api, $why := include "fleetwatch.apis" . | fromYaml }}
{{- if not ($.Capabilities.APIVersions.Has $api) }}
{{- $problems = append $problems (printf "%s: the cluster has no %s: install its operator first; where it is there but cannot be seen (helm template), set checkCapabilities to false" $why $api) }}
{{- end }}
{{- end }}
{{- end }}
{{- if $problems }}
{{- fail (printf "wrong values:\n  %s\n" (join "\n  " (uniq $problems))) }}
{{- end }}
{{- end }}

{{/* The roles that speak to Kafka, by the name of their values. */}}
{{- define "fleetwatch.roles" -}}
{{- $found := dict "worker" .Values.worker }}
{{- if include "fleetwatch.autoscalerRuns" . }}{{ $_ := set $found "autoscaler" .Values.autoscaler }}{{ end }}
{{- if and .Values.topicsJob.enabled (not .Values.strimzi.enabled) }}{{ $_ := set $found "topicsJob" .Values.topicsJob }}{{ end }}
{{- if .Values.producers.fleets }}{{ $_ := set $found "producers" .Values.producers }}{{ end }}
{{- if .Values.forwarder.enabled }}{{ $_ := set $found "forwarder" .Values.forwarder }}{{ end }}
{{- toYaml $found }}
{{- end }}

{{/* API kinds that the values ask for, and which value does. */}}
{{- define "fleetwatch.apis" -}}
{{- $m := .Values.monitoring }}{{ $found := dict }}
{{- if $m.podMonitor.enabled }}{{ $_ := set $found "monitoring.coreos.com/v1/PodMonitor" "monitoring.podMonitor.enabled" }}{{ end }}
{{- if $m.serviceMonitor.enabled }}{{ $_ := set $found "monitoring.coreos.com/v1/ServiceMonitor" "monitoring.serviceMonitor.enabled" }}{{ end }}
{{- if $m.prometheusRule.enabled }}{{ $_ := set $found "monitoring.coreos.com/v1/PrometheusRule" "monitoring.prometheusRule.enabled" }}{{ end }}
{{- if eq .Values.autoscaling.mode "keda" }}{{ $_ := set $found "keda.sh/v1alpha1/ScaledObject" "autoscaling.mode keda" }}{{ end }}
{{- if .Values.strimzi.enabled }}{{ $_ := set $found "kafka.strimzi.io/v1/KafkaTopic" "strimzi.enabled" }}{{ end }}
{{- toYaml $found }}
{{- end }}
