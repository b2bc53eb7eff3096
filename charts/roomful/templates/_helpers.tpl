{{- define "roomful.name" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Labels of one component: (list . "operator"). */}}
{{- define "roomful.labels" -}}
{{- $root := index . 0 -}}
{{ include "roomful.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{/* Not app.kubernetes.io/name: roomful, which is what the operator makes. */}}
{{- define "roomful.selector" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
app.kubernetes.io/name: roomful-{{ $component }}
app.kubernetes.io/instance: {{ include "roomful.name" $root }}
{{- end }}

{{/* An image with its tag or digest: (list . .Values.image). */}}
{{- define "roomful.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default $root.Chart.AppVersion $image.tag }}
{{- end }}
{{- end }}

{{/* What every pod of the chart is held to, but for its containers: (list . "operator" uid pod). */}}
{{- define "roomful.pod" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $uid := index . 2 -}}
{{- $pod := index . 3 -}}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ $uid }}
  runAsGroup: {{ $uid }}
  fsGroup: {{ $uid }}
  seccompProfile: {type: RuntimeDefault}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- include "roomful.selector" (list $root $component) | nindent 8 }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- range $field := list "nodeSelector" "tolerations" "affinity" "priorityClassName" }}
{{- with get $pod $field }}
{{ $field }}: {{ toJson . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "roomful.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* The Service that traffic from outside goes to. */}}
{{- define "roomful.front" -}}
{{- if .Values.loadBalancer.enabled -}}
name: {{ include "roomful.name" . }}
port: {{ .Values.loadBalancer.service.port }}
{{- else -}}
name: {{ include "roomful.name" . }}-edge
port: 8080
{{- end }}
{{- end }}

{{- define "roomful.tracingEndpoint" -}}
{{- if .Values.tracing.endpoint -}}
{{ .Values.tracing.endpoint }}
{{- else if .Values.tracing.collector.enabled -}}
http://{{ include "roomful.name" . }}-collector:4318
{{- end }}
{{- end }}
