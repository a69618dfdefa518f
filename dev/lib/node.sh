# The processes of the one-node cluster and their configuration. Sourced by dev/cluster.
# shellcheck shell=bash disable=SC2034 # some variables are for those who source this file

CONTAINERD_SOCKET=$RUN/containerd.sock
ETCD_SOCKET=$RUN/etcd.sock
NODE_PROCESSES=(containerd etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy)

# Files are replaced only where they differ, for a process is started anew when its configuration changed.
write_file() {
    local file=$1 new=$1.new
    mkdir -p "$(dirname "$file")"
    cat >"$new"
    if cmp -s "$new" "$file"; then rm "$new"; else mv "$new" "$file"; fi
}

node_configure() {
    write_file "$STATE/config/containerd.toml" <<TOML
version = 3
root = "$STATE/containerd"
state = "$RUN/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]

[grpc]
  address = "$CONTAINERD_SOCKET"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "ocibuild.dev/dev/pause:1"
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "$STATE/config/registries"

[plugins."io.containerd.cri.v1.runtime"]
  # Without CAP_SYS_RESOURCE on this machine no sandbox could lower its score.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "$STATE/config/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "$(binary_path runc)"
      SystemdCgroup = false
TOML
    # The node itself does not ask the cluster's DNS: it learns here where the registries' names lead, and that the open one
    # is its mirror of docker.io.
    write_file "$STATE/config/registries/registry.registry.svc.cluster.local_5000_/hosts.toml" <<TOML
server = "http://$REGISTRY_ADDRESS:5000"
TOML
    write_file "$STATE/config/registries/registry-auth.registry.svc.cluster.local_5000_/hosts.toml" <<TOML
server = "http://$REGISTRY_AUTH_ADDRESS:5000"
TOML
    write_file "$STATE/config/registries/docker.io/hosts.toml" <<TOML
server = "https://registry-1.docker.io"
[host."http://$REGISTRY_ADDRESS:5000"]
  capabilities = ["pull", "resolve"]
TOML
    write_file "$STATE/config/cni/10-ocibuild-dev.conflist" <<JSON
{
  "cniVersion": "1.0.0",
  "name": "ocibuild-dev",
  "plugins": [
    {
      "type": "bridge", "bridge": "$BRIDGE", "isGateway": true, "ipMasq": false, "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "dataDir": "$RUN/addresses",
        "ranges": [[{ "subnet": "$POD_CIDR", "gateway": "$NODE_ADDRESS" }]],
        "routes": [{ "dst": "0.0.0.0/0" }]
      }
    },
    { "type": "portmap", "capabilities": { "portMappings": true } }
  ]
}
JSON
    local resolver=/etc/resolv.conf
    # systemd-resolved's stub listens where no pod can reach it; its own servers are in the other file.
    if grep -q '^nameserver 127\.' "$resolver" && [ -e /run/systemd/resolve/resolv.conf ]; then
        resolver=/run/systemd/resolve/resolv.conf
    fi
    write_file "$STATE/config/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $NODE_ADDRESS
tlsCertFile: $PKI/kubelet.crt
tlsPrivateKeyFile: $PKI/kubelet.key
authentication:
  anonymous: { enabled: false }
  webhook: { enabled: true }
  x509: { clientCAFile: $PKI/ca.crt }
authorization: { mode: Webhook }
containerRuntimeEndpoint: unix://$CONTAINERD_SOCKET
podLogsDir: $STATE/pod-logs
clusterDomain: cluster.local
clusterDNS: [$DNS_ADDRESS]
resolvConf: $resolver
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
# No image can be pulled again, so none is collected; and a full disk of a developer's machine evicts no pod.
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
# Once there is room again pods come back at once.
evictionPressureTransitionPeriod: 5s
evictionHard: { memory.available: 50Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1% }
YAML
    write_file "$STATE/config/kube-proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: $POD_CIDR
hostnameOverride: ocibuild-dev
clientConnection: { kubeconfig: $PKI/kube-proxy.kubeconfig }
# Limits of this machine's connection tracking stay as they are.
conntrack: { maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s }
YAML
}

containerd_answers() { "$(binary_path ctr)" --address "$CONTAINERD_SOCKET" version; }

containerd_up() {
    mkdir -p "$STATE/containerd"
    process_start containerd "$STATE/config/containerd.toml" \
        "$(binary_path containerd)" --config "$STATE/config/containerd.toml"
    process_wait containerd 30 "answer on $CONTAINERD_SOCKET" containerd_answers
}

etcd_up() {
    mkdir -p "$STATE/etcd"
    chmod 700 "$STATE/etcd"
    # Not syncing to disk is what makes a small machine fast. A power cut may cost the objects, which `down --purge` heals.
    # On a socket: no port of this machine to fight for, and no way in for pods. The advertised address is never used.
    process_start etcd - "$(binary_path etcd)" --name ocibuild-dev --data-dir "$STATE/etcd" --unsafe-no-fsync --log-level warn \
        --listen-client-urls "unix://$ETCD_SOCKET" --listen-peer-urls "unix://$RUN/etcd-peer.sock" \
        --advertise-client-urls http://localhost:2379
    process_wait etcd 60 "answer on $ETCD_SOCKET" \
        curl --fail --silent --max-time 2 --unix-socket "$ETCD_SOCKET" http://localhost/health
}

api_server_is_ready() { "$KUBECTL" get --raw /readyz --request-timeout=2s; }

control_plane_up() {
    process_start kube-apiserver - "$(binary_path kube-apiserver)" \
        --etcd-servers "unix://$ETCD_SOCKET" \
        --bind-address "$NODE_ADDRESS" --advertise-address "$NODE_ADDRESS" --secure-port 6443 \
        --service-cluster-ip-range "$SERVICE_CIDR" \
        --tls-cert-file "$PKI/apiserver.crt" --tls-private-key-file "$PKI/apiserver.key" \
        --client-ca-file "$PKI/ca.crt" \
        --kubelet-certificate-authority "$PKI/ca.crt" \
        --kubelet-client-certificate "$PKI/apiserver-kubelet-client.crt" \
        --kubelet-client-key "$PKI/apiserver-kubelet-client.key" \
        --kubelet-preferred-address-types InternalIP \
        --service-account-issuer https://kubernetes.default.svc.cluster.local \
        --service-account-key-file "$PKI/service-account.pub" \
        --service-account-signing-key-file "$PKI/service-account.key" \
        --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
        --allow-privileged=true
    process_wait kube-apiserver 90 "/readyz" api_server_is_ready
    process_start kube-controller-manager - "$(binary_path kube-controller-manager)" \
        --kubeconfig "$PKI/kube-controller-manager.kubeconfig" --bind-address 127.0.0.1 --leader-elect=false \
        --use-service-account-credentials --service-account-private-key-file "$PKI/service-account.key" \
        --root-ca-file "$PKI/ca.crt" \
        --cluster-signing-cert-file "$PKI/ca.crt" --cluster-signing-key-file "$PKI/ca.key"
    process_start kube-scheduler - "$(binary_path kube-scheduler)" \
        --kubeconfig "$PKI/kube-scheduler.kubeconfig" --bind-address 127.0.0.1 --leader-elect=false
}

kubelet_is_healthy() { curl --fail --silent --max-time 2 http://127.0.0.1:10248/healthz; }

# What etcd remembers of a node that stood still says nothing: Ready must have been reported after this start.
node_is_ready() {
    local reported
    reported=$("$KUBECTL" get node ocibuild-dev --request-timeout=2s -o \
        'jsonpath={range .status.conditions[?(@.type=="Ready")]}{.status}{" "}{.lastHeartbeatTime}{end}')
    [ "${reported%% *}" = True ] && [ "$(date -d "${reported#* }" +%s)" -ge "$1" ]
}

kubelet_up() {
    local since=0
    if ! process_runs kubelet; then
        since=$(date +%s)
        if kubelet_is_healthy >/dev/null 2>&1; then
            echo "another kubelet runs on this machine (port 10248 answers); give its cluster instead:" \
                "OCIBUILD_KUBECONFIG=/path/to/kubeconfig, or stop it"
            return 1
        fi
    fi
    process_start kubelet "$STATE/config/kubelet.yaml" \
        "$(binary_path kubelet)" --config "$STATE/config/kubelet.yaml" --kubeconfig "$PKI/kubelet.kubeconfig" \
        --root-dir "$STATE/kubelet" --hostname-override ocibuild-dev --node-ip "$NODE_ADDRESS"
    process_start kube-proxy "$STATE/config/kube-proxy.yaml" \
        "$(binary_path kube-proxy)" --config "$STATE/config/kube-proxy.yaml"
    process_wait kubelet 60 "healthz" kubelet_is_healthy
    process_wait kubelet 90 "node Ready" node_is_ready "$since"
}

# Processes of pods: containers, and the shims that hold them.
pod_processes() {
    {
        find /sys/fs/cgroup -path '*/kubepods*' -name cgroup.procs -exec cat {} + 2>/dev/null || true
        pgrep -f -- "containerd-shim-runc-v2 .*-address $CONTAINERD_SOCKET" || true
    } | sort -u
}

no_pod_processes() { [ -z "$(pod_processes)" ]; }

node_down() {
    local name
    for name in kubelet kube-proxy kube-scheduler kube-controller-manager; do
        process_stop "$name"
    done
    # It keeps nothing, and asked to end it waits a minute for whoever watches.
    process_stop kube-apiserver KILL
    process_stop etcd
    # Shims end by themselves when their containers do, or are killed with them.
    local deadline=$((SECONDS + 20))
    until no_pod_processes; do
        # shellcheck disable=SC2046 # many pids
        kill -KILL $(pod_processes) 2>/dev/null || true
        ((SECONDS < deadline)) || {
            echo "processes of pods do not end: $(pod_processes | tr '\n' ' ')"
            return 1
        }
        sleep 0.1
    done
    process_stop containerd
    node_unmount
    find /sys/fs/cgroup -depth -type d -path '*/kubepods*' -exec rmdir {} + 2>/dev/null || true
}

# Volumes, root file systems and network namespaces, innermost first.
node_unmount() {
    local directory
    awk -v run="$RUN/" -v state="$STATE/" 'index($5, run) == 1 || index($5, state) == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r directory; do
        umount "$directory" 2>/dev/null || umount --lazy "$directory" || true
    done
}
