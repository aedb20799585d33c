{{/* Sections of the product's settings that each role reads: a change restarts only those that it concerns. */}}
{{- define "fleetwatch.sections" -}}
worker: [catalog, processing, topics, windows, detectors, alerts, drift, outputs, schemas]
autoscaler: [processing, topics, autoscaler]
producers: [catalog, topics, schemas]
forwarder: [processing, topics, forward]
topics: [processing, topics]
{{- end }}

{{/* Call with (list $ component): the settings file of a role. */}}
{{- define "fleetwatch.settings" -}}
{{- $root := index . 0 }}
{{- $sections := index (include "fleetwatch.sections" $root | fromYaml) (index . 1) }}
{{- $found := dict }}
{{- range $section := $sections }}
{{- $content := index $root.Values.settings $section }}
{{- if not (kindIs "invalid" $content) }}{{ $_ := set $found $section $content }}{{ end }}
{{- end }}
{{- toYaml $found }}
{{- end }}

{{/* The same as variables, for a hook: a ConfigMap of the release is not there yet before an install. */}}
{{- define "fleetwatch.settingsEnv" -}}
{{- range $section, $content := include "fleetwatch.settings" . | fromYaml }}
- name: FLEETWATCH_{{ upper $section }}
  value: {{ toJson $content | quote }}
{{- end }}
{{- end }}
