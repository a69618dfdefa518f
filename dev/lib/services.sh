# What runs as pods on the development cluster: DNS, volumes, registries. Sourced by dev/cluster.
# shellcheck shell=bash disable=SC2034 # render reads variables by name

# A manifest with the values of this cluster.
render() {
    local name MANIFEST_HASH
    local -a replace=()
    MANIFEST_HASH=$(sha256sum <"$1" | cut -c 1-16)
    for name in STATE DNS_ADDRESS REGISTRY_ADDRESS REGISTRY_AUTH_ADDRESS REGISTRY_HTPASSWD MANIFEST_HASH \
        COREDNS_VERSION LOCAL_PATH_PROVISIONER_VERSION REGISTRY_VERSION; do
        replace+=(-e "s|\${$name}|${!name}|g")
    done
    sed "${replace[@]}" "$1"
}

binary_version() {
    local tool package version version_arguments
    describe_binary "$1"
    printf '%s\n' "$version"
}

services_up() {
    local COREDNS_VERSION LOCAL_PATH_PROVISIONER_VERSION REGISTRY_VERSION REGISTRY_HTPASSWD manifest deployment
    COREDNS_VERSION=$(binary_version coredns)
    LOCAL_PATH_PROVISIONER_VERSION=$(binary_version local-path-provisioner)
    REGISTRY_VERSION=$(binary_version registry)
    # Salted: made once, for a new one would be a changed Secret at each start.
    [ -s "$PKI/registry.htpasswd" ] || htpasswd -Bbn builder correct-horse | head -n 1 >"$PKI/registry.htpasswd"
    REGISTRY_HTPASSWD=$(cat "$PKI/registry.htpasswd")
    for manifest in coredns storage registry; do
        render "$DEV/manifests/$manifest.yaml" | "$KUBECTL" apply --server-side --force-conflicts --field-manager=dev-cluster -f -
    done
    for deployment in kube-system/coredns registry/registry registry/registry-auth local-path-storage/local-path-provisioner; do
        "$KUBECTL" rollout status --timeout=120s --namespace "${deployment%/*}" "deployment/${deployment#*/}"
    done
    # After a restart of the node the objects say Available before any pod runs again: ask the services themselves.
    wait_until 90 "an answer of CoreDNS on $DNS_ADDRESS" \
        busybox nslookup registry.registry.svc.cluster.local "$DNS_ADDRESS"
    wait_until 90 "the registry on $REGISTRY_ADDRESS:5000" curl --fail --silent --max-time 2 "http://$REGISTRY_ADDRESS:5000/v2/"
    wait_until 90 "the registry on $REGISTRY_AUTH_ADDRESS:5000" \
        curl --fail --silent --max-time 2 --user builder:correct-horse "http://$REGISTRY_AUTH_ADDRESS:5000/v2/"
}

# Builds of the cluster ask the open registry for docker.io's images, as those of a company ask its own mirror.
mirror_up() {
    local digest name=library/busybox:1.37
    digest=$(cat "$CACHE/images/busybox.digest")
    if curl --fail --silent --head --max-time 5 --header 'Accept: application/vnd.oci.image.manifest.v1+json' \
        "http://$REGISTRY_ADDRESS:5000/v2/${name%:*}/manifests/${name##*:}" | grep -i "$digest" >/dev/null; then
        return 0
    fi
    skopeo copy --insecure-policy --dest-tls-verify=false \
        "oci-archive:$CACHE/images/busybox.tar" "docker://$REGISTRY_ADDRESS:5000/$name"
}
