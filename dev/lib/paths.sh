# Where everything of the development cluster lives. Sourced by the scripts in dev/.
# shellcheck shell=bash disable=SC2034 # the variables are for those who source this file

REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
DEV=$REPOSITORY/dev

# Binaries, stamped with what they were built from. Safe to delete: the next run builds again.
CACHE=${OCIBUILD_DEV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ocibuild-dev}
BIN=$CACHE/bin

# What outlives a restart of the node: etcd, containerd's content, volumes, certificates, logs. On a real file system, for
# overlayfs does not go on top of overlayfs.
STATE=/var/lib/ocibuild-dev
LOGS=$STATE/logs
PKI=$STATE/pki
IMAGES=$STATE/images
# What does not: sockets and pid files.
RUN=/run/ocibuild-dev

ADMIN_KUBECONFIG=$STATE/admin.kubeconfig
