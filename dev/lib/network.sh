# The node's network: one bridge, one range for pods, one for services. Sourced by dev/cluster.
# shellcheck shell=bash disable=SC2034 # the variables are for those who source this file

# Two /16 ranges that nothing on this machine uses; the first two numbers of each.
POD_NETWORK=${OCIBUILD_DEV_POD_NETWORK:-10.231}
SERVICE_NETWORK=${OCIBUILD_DEV_SERVICE_NETWORK:-10.232}
POD_CIDR=$POD_NETWORK.0.0/16
SERVICE_CIDR=$SERVICE_NETWORK.0.0/16
BRIDGE=ocibuild-dev
# The bridge's address is the node's: it is there before any pod and stays when the machine changes networks.
NODE_ADDRESS=$POD_NETWORK.0.1
DNS_ADDRESS=$SERVICE_NETWORK.0.10
REGISTRY_ADDRESS=$SERVICE_NETWORK.0.50
REGISTRY_AUTH_ADDRESS=$SERVICE_NETWORK.0.51

# Rules of ours carry this comment, so that `down` finds them again.
RULE_COMMENT=ocibuild-dev

network_up() {
    if ! ip link show "$BRIDGE" >/dev/null 2>&1; then
        local range
        for range in "$POD_NETWORK" "$SERVICE_NETWORK"; do
            if ip -4 route show | grep -qE "^${range//./\\.}\."; then
                die "this machine already has a route into $range.0.0/16; choose two free ranges, for example" \
                    "OCIBUILD_DEV_POD_NETWORK=10.241 OCIBUILD_DEV_SERVICE_NETWORK=10.242 dev/cluster up"
            fi
        done
        ip link add "$BRIDGE" type bridge
    fi
    ip address replace "$NODE_ADDRESS/16" dev "$BRIDGE"
    ip link set "$BRIDGE" up
    echo 1 >/proc/sys/net/ipv4/ip_forward
    # Without it a pod's answer to a service of its own node bypasses the address translation.
    [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || modprobe br_netfilter || true
    [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ] ||
        die "the kernel lacks the module br_netfilter, which services between pods need; load it (modprobe br_netfilter)"
    echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
    network_rule nat POSTROUTING -s "$POD_CIDR" ! -d "$POD_CIDR" -j MASQUERADE
    network_rule filter FORWARD -i "$BRIDGE" -j ACCEPT
    network_rule filter FORWARD -o "$BRIDGE" -j ACCEPT
}

network_rule() {
    local table=$1 chain=$2
    shift 2
    iptables -w -t "$table" -C "$chain" "$@" -m comment --comment "$RULE_COMMENT" 2>/dev/null ||
        iptables -w -t "$table" -I "$chain" "$@" -m comment --comment "$RULE_COMMENT"
}

# Takes our rules away, and those that kubelet, kube-proxy and the port mapping of pods made for this node.
network_down() {
    local tool table
    # Not grep -q: it would end before iptables-save has written all, which then counts as failed.
    if iptables-save 2>/dev/null | grep -- "$RULE_COMMENT" >/dev/null; then
        for tool in iptables ip6tables; do
            for table in nat filter mangle; do
                "$tool-save" -c -t "$table" | grep -v -e KUBE- -e "$RULE_COMMENT" | "$tool-restore" -w -c -T "$table" || true
            done
        done
    fi
    ip link delete "$BRIDGE" 2>/dev/null || true
}
