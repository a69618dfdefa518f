{{- define "ocibuild.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "ocibuild.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "ocibuild.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "ocibuild.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "ocibuild.selectorLabels" -}}
app.kubernetes.io/name: {{ include "ocibuild.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: controller
{{- end }}

{{- define "ocibuild.labels" -}}
{{ include "ocibuild.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "ocibuild.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "ocibuild.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "ocibuild.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{/* The operator's configuration: the values under `config`, with the image filled in and what is empty left out. */}}
{{- define "ocibuild.config" -}}
{{- $config := deepCopy .Values.config }}
{{- if not $config.images.runner }}
{{- $_ := set $config.images "runner" (include "ocibuild.image" .) }}
{{- end }}
{{- range $key := list "outputStorageClass" "priorityClassName" }}
{{- if not (get $config.defaults $key) }}
{{- $_ := unset $config.defaults $key }}
{{- end }}
{{- end }}
{{- range $key := list "queue" "source" "build" "export" "push" }}
{{- if not (get $config.waits $key) }}
{{- $_ := unset $config.waits $key }}
{{- end }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{/* What the operator does in the namespaces of builds. No Secrets, no ConfigMaps, no exec, no logs. */}}
{{- define "ocibuild.buildRules" -}}
- apiGroups: [ocibuild.dev]
  resources: [ocibuilds]
  # delete for ttlAfterFinished.
  verbs: [get, list, watch, delete]
- apiGroups: [ocibuild.dev]
  resources: [ocibuilds/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete]
# create for a build's own claim; get tells whether a claim that a build names is there.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, create]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
