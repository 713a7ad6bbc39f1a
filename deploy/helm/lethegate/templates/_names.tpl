{{- define "lethegate.labels" -}}
app.kubernetes.io/name: {{ .Release.Name }}
{{- end -}}
