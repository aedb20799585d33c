{{/* Names and labels. */}}

{{- define "fleetwatch.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "fleetwatch.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "fleetwatch.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "fleetwatch.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "fleetwatch.worker" -}}
{{- printf "%s-worker" (include "fleetwatch.fullname" .) }}
{{- end }}

{{- define "fleetwatch.autoscaler" -}}
{{- printf "%s-autoscaler" (include "fleetwatch.fullname" .) }}
{{- end }}

{{/* The Lease whose holder scales. */}}
{{- define "fleetwatch.lease" -}}
{{- printf "%s-%s-autoscaler" (lower .Values.worker.kind) (include "fleetwatch.worker" .) }}
{{- end }}

{{/* Call with (list $ component). */}}
{{- define "fleetwatch.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "fleetwatch.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "fleetwatch.labels" -}}
{{- $root := index . 0 -}}
{{ include "fleetwatch.selector" . }}
app.kubernetes.io/version: {{ $root.Values.image.tag | default $root.Chart.AppVersion | trunc 63 | quote }}
app.kubernetes.io/part-of: fleetwatch
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* metadata of an object. Call with (dict "root" $ "component" ... "name" ... ["namespace" ...] ["annotations" dict]
["labels" dict]). */}}
{{- define "fleetwatch.metadata" -}}
name: {{ .name }}
namespace: {{ .namespace | default .root.Release.Namespace }}
labels:
  {{- include "fleetwatch.labels" (list .root .component) | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Call with (list $ role component): the account of a role that has one. */}}
{{- define "fleetwatch.serviceAccount" -}}
{{- $root := index . 0 }}{{ $role := index . 1 }}
{{- if $role.serviceAccount.create }}
{{- $role.serviceAccount.name | default (printf "%s-%s" (include "fleetwatch.fullname" $root) (index . 2)) }}
{{- else }}
{{- $role.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{/* "true" where our autoscaler runs. */}}
{{- define "fleetwatch.autoscalerRuns" -}}
{{- $a := .Values.autoscaling -}}
{{- if or (eq $a.mode "builtin") (and (eq $a.mode "keda") (eq $a.keda.source "desired")) }}true{{ end }}
{{- end }}

{{/* "true" where it also scales. */}}
{{- define "fleetwatch.autoscalerScales" -}}
{{- if and (eq .Values.autoscaling.mode "builtin") (not .Values.autoscaling.dryRun) }}true{{ end }}
{{- end }}

{{- define "fleetwatch.partitions" -}}
{{- dig "topics" "partitions" 8 .Values.settings | int }}
{{- end }}

{{- define "fleetwatch.group" -}}
{{- dig "processing" "group" "fleetwatch" .Values.settings }}
{{- end }}

{{/* The most workers there may be: never more than partitions. */}}
{{- define "fleetwatch.maxReplicas" -}}
{{- $partitions := include "fleetwatch.partitions" . | int }}
{{- $max := .Values.autoscaling.maxReplicas | int }}
{{- if $max }}{{ min $max $partitions }}{{ else }}{{ $partitions }}{{ end }}
{{- end }}

{{- define "fleetwatch.prefix" -}}
{{- dig "topics" "prefix" "telemetry" .Values.settings }}
{{- end }}
