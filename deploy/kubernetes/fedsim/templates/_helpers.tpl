{{/* Names and labels. The release's name is in every object's, so several may share a namespace. */}}
{{- define "fedsim.name" -}}
{{- printf "%s-%s" .root.Release.Name .component | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "fedsim.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "fedsim.labels" -}}
{{ include "fedsim.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "fedsim.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What every pod has, after the "restricted" Pod Security Standard. */}}
{{- define "fedsim.pod" -}}
serviceAccountName: {{ include "fedsim.name" (dict "root" . "component" "pods") }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .Values.runAsUser }}
  runAsGroup: {{ .Values.runAsGroup }}
  fsGroup: {{ .Values.runAsGroup }}
  # once, when the volume is new: later it would open the files again that are 0600
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{- define "fedsim.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  privileged: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{- define "fedsim.fedsimImage" -}}
image: {{ include "fedsim.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end -}}

{{/*
Lay the bundle's files on the volume, 0600 as fedsim wants them; a mounted secret cannot be (its
files belong to root). What the server or node wrote itself is never replaced: a ledger or an audit
log from the bundle would undo what was spent.
*/}}
{{- define "fedsim.unpack" -}}
- name: unpack
  {{- include "fedsim.fedsimImage" . | nindent 2 }}
  command:
    - sh
    - -ec
    - |
      umask 077
      mkdir -p /federation/bundle /tmp/new
      tar --extract --file /run/bundle/bundle.tar --directory /tmp/new --no-same-owner --no-same-permissions
      for kept in audit.jsonl ledger pins runs state.db flwr-home; do
        if [ -e "/federation/bundle/$kept" ]; then rm -rf "/tmp/new/$kept"; fi
      done
      cp -R /tmp/new/. /federation/bundle/
      if [ -e /run/database/pgpass ]; then cp /run/database/pgpass /run/private/pgpass; fi
  {{- include "fedsim.container" . | nindent 2 }}
  resources:
    requests: {cpu: 50m, memory: 32Mi, ephemeral-storage: 16Mi}
    limits: {cpu: 500m, memory: 128Mi, ephemeral-storage: 64Mi}
  volumeMounts:
    - {name: federation, mountPath: /federation}
    - {name: bundle, mountPath: /run/bundle, readOnly: true}
    - {name: tmp, mountPath: /tmp}
{{- end -}}

{{/* What the options must have together; the schema checks each by itself. */}}
{{- define "fedsim.check" -}}
{{- if not (or .Values.server.enabled .Values.nodes) -}}
{{- fail "nothing to install: set server.enabled=true, or list nodes" -}}
{{- end -}}
{{- if .Values.server.enabled -}}
{{- $_ := required "server.bundleSecret: name the secret with bundle.tar, the folder DIR/server" .Values.server.bundleSecret -}}
{{- $_ := required "server.address: the name on the server's certificate (fedsim deploy init --address)" .Values.server.address -}}
{{- $_ := required "gateway.tlsSecret: name the secret with server.crt, server.key and ca.crt of DIR/server" .Values.gateway.tlsSecret -}}
{{- with .Values.server.database -}}
{{- if and .passwordSecret $.Values.networkPolicy.enabled (not .peers) -}}
{{- fail "server.database.peers: where the database is, or the network policy keeps the server from it" -}}
{{- end -}}
{{- end -}}
{{- else if and .Values.networkPolicy.enabled (not .Values.networkPolicy.serverCidrs) -}}
{{- fail "networkPolicy.serverCidrs: where the server of these nodes is, e.g. [203.0.113.7/32], or the network policy keeps them from it" -}}
{{- end -}}
{{- $names := list -}}
{{- range .Values.nodes -}}
{{- if has .name $names -}}
{{- fail (printf "nodes: two are named %s" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- end -}}
