{{/* What all pods have in common. */}}

{{- define "fleetwatch.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}
{{- else }}{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* Call with (dict "root" $ "role" .Values.x "component" ...): pod metadata. No version of the chart is in it, which
would restart all workers for nothing. */}}
{{- define "fleetwatch.podMetadata" -}}
labels:
  {{- include "fleetwatch.selector" (list .root .component) | nindent 2 }}
  app.kubernetes.io/part-of: fleetwatch
  {{- with .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .role.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $annotations := dict }}
{{- if ne .component "topics" }}
{{- $_ := set $annotations "checksum/settings" (include "fleetwatch.settings" (list .root .component) | sha256sum) }}
{{- end }}
{{- with merge $annotations .role.podAnnotations .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Pod spec beside the containers and volumes. serviceLinks are off: Kubernetes' own variables, such as
FLEETWATCH_WORKER_PORT, would be refused as unknown settings. */}}
{{- define "fleetwatch.podSpec" -}}
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .root.Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .role.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .role.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .role.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .role.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if hasKey .role "topologySpreadConstraints" }}
{{- $labels := dict "matchLabels" (include "fleetwatch.selector" (list .root .component) | fromYaml) }}
topologySpreadConstraints:
  {{- if .role.topologySpreadConstraints }}
  {{- range .role.topologySpreadConstraints }}
  - {{- toYaml (merge (dict) . (dict "labelSelector" $labels)) | nindent 4 }}
  {{- end }}
  {{- else }}
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      {{- toYaml $labels | nindent 6 }}
  {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Of a container, after its name. Call as above, with "args" or "command" (lists) and "env" (text). */}}
{{- define "fleetwatch.container" -}}
image: {{ include "fleetwatch.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- if .command }}
command:
  {{- toYaml .command | nindent 2 }}
{{- else }}
command: [fleetwatch]
args: {{ toJson .args }}
{{- end }}
{{- with .root.Values.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .role.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
env:
  - {name: HOME, value: /tmp}
  {{- if eq .component "topics" }}
  {{- include "fleetwatch.settingsEnv" (list .root .component) | trim | nindent 2 }}
  {{- else }}
  - {name: FLEETWATCH_CONFIG, value: /etc/fleetwatch/settings/settings.yaml}
  {{- end }}
  {{- with .root.Values.worker.cacheDir }}
  - {name: FLEETWATCH_CACHE_DIR, value: {{ . | quote }}}
  {{- end }}
  {{- include "fleetwatch.kafkaEnv" (list .root .role) | trim | nindent 2 }}
  {{- with .env }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .role.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  {{- with .root.Values.worker.cacheDir }}
  - {name: cache, mountPath: {{ . | quote }}}
  {{- end }}
  {{- if ne .component "topics" }}
  - {name: settings, mountPath: /etc/fleetwatch/settings, readOnly: true}
  {{- end }}
  {{- if include "fleetwatch.kafkaSources" (list .root .role) }}
  - {name: kafka, mountPath: /etc/fleetwatch/kafka, readOnly: true}
  {{- end }}
  {{- with .mounts }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .role.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "fleetwatch.volumes" -}}
volumes:
  - name: tmp
    emptyDir: {sizeLimit: 256Mi}
  {{- if .root.Values.worker.cacheDir }}
  - name: cache
    emptyDir: {sizeLimit: {{ .root.Values.worker.cacheSizeLimit }}}
  {{- end }}
  {{- if ne .component "topics" }}
  - name: settings
    configMap:
      name: {{ include "fleetwatch.fullname" .root }}
      items:
        - {key: {{ .component }}.yaml, path: settings.yaml}
  {{- end }}
  {{- with include "fleetwatch.kafkaSources" (list .root .role) }}
  - name: kafka
    projected:
      defaultMode: 0440
      sources:
        {{- . | trim | nindent 8 }}
  {{- end }}
  {{- with .volumes }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .role.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
