{{/* What pods of every kind have in common; the plain manifests say the same. */}}

{{- define "lethegate.pod" -}}
serviceAccountName: {{ .Release.Name }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
automountServiceAccountToken: false
# Kubernetes would set LETHEGATE_PORT and others after the services, which are settings here.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "lethegate.container" -}}
image: {{ printf "%s:%s" .Values.image.repository .Values.image.tag | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{/* A key of the secret with the keys, as a variable. Takes root, variable and key. */}}
{{- define "lethegate.key" -}}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef:
      name: {{ .root.Values.keysSecret | quote }}
      key: {{ .key }}
{{- end -}}

{{/* Settings that every process has: they must agree on the encoder, at least. */}}
{{- define "lethegate.settings" -}}
- name: HF_HUB_OFFLINE
  value: "1"
{{- if .Values.encoder.claim }}
{{- if hasKey .Values.settings "encoder" }}
{{- fail "settings.encoder and encoder.claim exclude each other" }}
{{- end }}
- name: LETHEGATE_ENCODER
  value: /models/encoder
{{- end }}
{{- range $name, $value := .Values.settings }}
- name: LETHEGATE_{{ upper $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* Those of a control process: its keys, its store, its files. */}}
{{- define "lethegate.controlSettings" -}}
- name: LETHEGATE_ADMIN_HOST
  value: 0.0.0.0
{{ include "lethegate.key" (dict "root" . "variable" "LETHEGATE_ADMIN_KEY" "key" "admin-key") }}
{{- with .Values.database.secret }}
- name: LETHEGATE_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ . | quote }}
      key: {{ $.Values.database.key | quote }}
{{- end }}
{{- if .Values.encryption.secret }}
- name: LETHEGATE_ENCRYPTION_KEY_FILE
  value: /etc/lethegate/encryption/key
{{- end }}
{{- if .Values.indexes.claim }}
- name: LETHEGATE_INDEX_DIR
  value: /var/lib/lethegate-indexes
{{- end }}
{{- end -}}

{{- define "lethegate.mounts" -}}
- name: state
  mountPath: /var/lib/lethegate
- name: cache
  mountPath: /var/cache/lethegate
- name: model
  mountPath: /models/model
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- if .Values.encoder.claim }}
- name: encoder
  mountPath: /models/encoder
  readOnly: true
{{- end }}
{{- end -}}

{{- define "lethegate.controlMounts" -}}
{{- if .Values.encryption.secret }}
- name: encryption
  mountPath: /etc/lethegate/encryption
  readOnly: true
{{- end }}
{{- if .Values.indexes.claim }}
- name: indexes
  mountPath: /var/lib/lethegate-indexes
  readOnly: true
{{- end }}
{{- end -}}

{{- define "lethegate.volumes" -}}
- name: model
  persistentVolumeClaim:
    claimName: {{ .Values.model.claim | quote }}
    readOnly: true
- name: cache
  emptyDir: {}
- name: tmp
  emptyDir: {}
{{- with .Values.encoder.claim }}
- name: encoder
  persistentVolumeClaim:
    claimName: {{ . | quote }}
    readOnly: true
{{- end }}
{{- end -}}

{{- define "lethegate.controlVolumes" -}}
{{- with .Values.encryption.secret }}
# Whole, not by subPath: a key that was added is seen at the next start.
- name: encryption
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
    items:
      - key: {{ $.Values.encryption.key | quote }}
        path: key
{{- end }}
{{- with .Values.indexes.claim }}
- name: indexes
  persistentVolumeClaim:
    claimName: {{ . | quote }}
    readOnly: true
{{- end }}
{{- end -}}

{{/* A claim of its own for each pod. Takes root and storage. */}}
{{- define "lethegate.state" -}}
- metadata:
    name: state
  spec:
    accessModes: [ReadWriteOncePod]
    {{- with .root.Values.state.storageClass }}
    storageClassName: {{ . | quote }}
    {{- end }}
    resources:
      requests:
        storage: {{ .storage }}
{{- end -}}
