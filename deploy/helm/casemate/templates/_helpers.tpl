{{/* The names, labels and images that the templates share. */}}

{{- define "casemate.labels" -}}
app.kubernetes.io/name: casemate
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- define "casemate.selector" -}}
app.kubernetes.io/name: casemate
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "casemate.image" -}}
{{- $images := .root.Values.images -}}
{{- $digest := dig .part "" ($images.digests | default dict) -}}
{{ $images.registry }}/{{ index $images .part }}:{{ $images.tag }}{{ with $digest }}@{{ . }}{{ end }}
{{- end }}

{{- define "casemate.workloadName" -}}
{{ .Release.Name }}-workload
{{- end }}

{{/* What Pod Security calls restricted. */}}
{{- define "casemate.restrictedPod" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "casemate.restrictedContainer" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* What a launcher needs to make a new root: see casemate.project.containers. */}}
{{- define "casemate.capabilities" -}}
[CHOWN, MKNOD, SETGID, SETPCAP, SETUID, SYS_CHROOT{{ if eq .Values.workload.isolation "namespace" }}, SYS_ADMIN{{ end }}]
{{- end }}
