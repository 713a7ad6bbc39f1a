{{- define "lethegate.labels" -}}
app.kubernetes.io/name: {{ .Release.Name }}
{{- end -}}

{{/* Whether servers are nodes that follow control processes of their own: "true", or nothing. */}}
{{- define "lethegate.nodes" -}}
{{- if gt (int .Values.nodes.replicas) 0 }}true{{ end }}
{{- end -}}

{{/* Labels by which the pods that serve are found: all of the release's, or the nodes. */}}
{{- define "lethegate.servers" -}}
{{ include "lethegate.labels" . }}
{{- if include "lethegate.nodes" . }}
app.kubernetes.io/component: node
{{- end }}
{{- end -}}

{{/* Labels by which the pods with a control process are found. */}}
{{- define "lethegate.controls" -}}
{{ include "lethegate.labels" . }}
{{- if include "lethegate.nodes" . }}
app.kubernetes.io/component: control
{{- end }}
{{- end -}}

{{/* Where nodes find the control processes: every pod by its own name, since only one leads. */}}
{{- define "lethegate.controlUrl" -}}
{{- if .Values.nodes.controlUrl -}}
{{ .Values.nodes.controlUrl }}
{{- else -}}
{{- $urls := list -}}
{{- range $number := until (int .Values.control.replicas) -}}
{{- $urls = append $urls (printf "http://%s-control-%d.%s-admin.%s:8001" $.Release.Name $number $.Release.Name $.Release.Namespace) -}}
{{- end -}}
{{ join "," $urls }}
{{- end -}}
{{- end -}}
