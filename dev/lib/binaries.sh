# The programs of the development cluster: what they are built from, and how long that takes.
# shellcheck shell=bash disable=SC2034 # tables for those who source this file

# name  tool (folder of dev/tools)  package  module that carries the version  arguments that print the version
BINARY_TABLE='
kube-apiserver           kubernetes             k8s.io/kubernetes/cmd/kube-apiserver                       k8s.io/kubernetes                          --version
kube-controller-manager  kubernetes             k8s.io/kubernetes/cmd/kube-controller-manager              k8s.io/kubernetes                          --version
kube-scheduler           kubernetes             k8s.io/kubernetes/cmd/kube-scheduler                       k8s.io/kubernetes                          --version
kubelet                  kubernetes             k8s.io/kubernetes/cmd/kubelet                              k8s.io/kubernetes                          --version
kube-proxy               kubernetes             k8s.io/kubernetes/cmd/kube-proxy                           k8s.io/kubernetes                          --version
kubectl                  kubernetes             k8s.io/kubernetes/cmd/kubectl                              k8s.io/kubernetes                          version --client
etcd                     etcd                   go.etcd.io/etcd/server/v3                                  go.etcd.io/etcd/server/v3                  --version
containerd               containerd             github.com/containerd/containerd/v2/cmd/containerd         github.com/containerd/containerd/v2        --version
containerd-shim-runc-v2  containerd             github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2  github.com/containerd/containerd/v2  -v
ctr                      containerd             github.com/containerd/containerd/v2/cmd/ctr                github.com/containerd/containerd/v2        --version
runc                     runc                   github.com/opencontainers/runc                             github.com/opencontainers/runc             -
buildkitd                buildkit               github.com/moby/buildkit/cmd/buildkitd                     github.com/moby/buildkit                   -
buildctl                 buildkit               github.com/moby/buildkit/cmd/buildctl                      github.com/moby/buildkit                   -
rootlesskit              rootlesskit            github.com/rootless-containers/rootlesskit/v2/cmd/rootlesskit  github.com/rootless-containers/rootlesskit/v2  -
registry                 registry               github.com/distribution/distribution/v3/cmd/registry       github.com/distribution/distribution/v3    -
coredns                  coredns                github.com/coredns/coredns                                 github.com/coredns/coredns                 -
local-path-provisioner   local-path-provisioner github.com/rancher/local-path-provisioner                  github.com/rancher/local-path-provisioner  -
helm                     helm                   helm.sh/helm/v4/cmd/helm                                   helm.sh/helm/v4                            version
kwok                     kwok                   sigs.k8s.io/kwok/cmd/kwok                                  sigs.k8s.io/kwok                           --version
kubeconform              kubeconform            github.com/yannh/kubeconform/cmd/kubeconform               github.com/yannh/kubeconform               -v
'
# Programs without version arguments (-) go into images, where they must be static: these are always our own builds.

# Seconds of a cold build on two cores.
declare -A TOOL_SECONDS=(
    [kubernetes]=310 [buildkit]=170 [helm]=150 [kwok]=150 [coredns]=140 [containerd]=115 [local-path-provisioner]=115
    [registry]=72 [etcd]=24 [runc]=12 [rootlesskit]=5 [kubeconform]=5
)

CLUSTER_BINARIES=(etcd runc rootlesskit kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl
    containerd containerd-shim-runc-v2 ctr buildkitd buildctl registry coredns local-path-provisioner helm)

# Sets tool, package, version and version_arguments of a binary.
describe_binary() {
    local module row
    row=$(awk -v name="$1" '$1 == name' <<<"$BINARY_TABLE")
    [ -n "$row" ] || die "no binary is called $1; known are: $(awk 'NF { printf "%s ", $1 }' <<<"$BINARY_TABLE")"
    # shellcheck disable=SC2162 # no backslashes in the table
    read _ tool package module version_arguments <<<"$row"
    version=$(awk -v module="$module" '$1 == "require" { $1 = ""; $0 = $0 } $1 == module && $2 ~ /^v/ { print $2; exit }' "$DEV/tools/$tool/go.mod")
    [ -n "$version" ] || die "dev/tools/$tool/go.mod requires no $module"
}

# What a cached binary must have been built from.
binary_stamp() {
    printf '%s %s %s\n' "$package" "$version" \
        "$(cat "$DEV/tools/$tool/go.mod" "$DEV/tools/$tool/go.sum" "$DEV/lib/go-build.sh" | sha256sum | cut -c 1-16)"
}

# Prints the path of a binary that is there at the pinned version: on PATH, else in the cache.
find_binary() {
    local name=$1 tool package version version_arguments on_path
    describe_binary "$name"
    if [ "$version_arguments" != - ] && on_path=$(PATH=${PATH//$BIN:/} command -v "$name"); then
        # shellcheck disable=SC2086 # several arguments
        if "$on_path" $version_arguments 2>&1 | grep -wF -- "${version#v}" >/dev/null; then
            printf '%s\n' "$on_path"
            return 0
        fi
    fi
    [ -x "$BIN/$name" ] && [ "$(cat "$BIN/.$name.stamp" 2>/dev/null)" = "$(binary_stamp)" ] && printf '%s\n' "$BIN/$name"
}

# The same for those who cannot do without it.
binary_path() {
    find_binary "$1" || die "$1 is not built yet, or its pinned version has changed; run dev/binaries $1"
}
