# Certificates and kubeconfigs of the node. Sourced by dev/cluster.
# shellcheck shell=bash

# The certificates live as long as etcd's data: service account tokens in it are signed with this key.
pki_up() {
    mkdir -p "$PKI"
    chmod 700 "$PKI"
    local settings="$NODE_ADDRESS $SERVICE_NETWORK"
    if [ "$(cat "$PKI/settings" 2>/dev/null)" = "$settings" ] && openssl x509 -checkend 86400 -noout -in "$PKI/admin.crt"; then
        return 0
    fi
    rm -f "$PKI/settings"
    [ -e "$PKI/service-account.key" ] || pki_key service-account
    openssl pkey -in "$PKI/service-account.key" -pubout -out "$PKI/service-account.pub"
    pki_key ca
    openssl req -x509 -new -key "$PKI/ca.key" -subj /CN=ocibuild-dev -days 3650 -out "$PKI/ca.crt" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
    pki_certificate apiserver /CN=kube-apiserver \
        "IP:$NODE_ADDRESS,IP:$SERVICE_NETWORK.0.1,IP:127.0.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
    pki_certificate kubelet /O=system:nodes/CN=system:node:ocibuild-dev "IP:$NODE_ADDRESS,DNS:ocibuild-dev"
    pki_certificate apiserver-kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
    pki_certificate admin /O=system:masters/CN=admin
    pki_certificate kube-controller-manager /CN=system:kube-controller-manager
    pki_certificate kube-scheduler /CN=system:kube-scheduler
    pki_certificate kube-proxy /CN=system:kube-proxy
    local name
    for name in kubelet kube-controller-manager kube-scheduler kube-proxy; do
        pki_kubeconfig "$name" "$PKI/$name.kubeconfig"
    done
    pki_kubeconfig admin "$ADMIN_KUBECONFIG"
    printf '%s\n' "$settings" >"$PKI/settings"
}

pki_key() {
    (umask 077 && openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$PKI/$1.key")
}

# pki_certificate NAME SUBJECT [ALTERNATIVE NAMES]: for clients and servers alike.
pki_certificate() {
    local name=$1 subject=$2 names=${3:-}
    pki_key "$name"
    openssl req -new -key "$PKI/$name.key" -subj "$subject" -out "$PKI/$name.csr"
    openssl x509 -req -in "$PKI/$name.csr" -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -CAcreateserial -days 3650 \
        -out "$PKI/$name.crt" -extfile <(
            echo basicConstraints=critical,CA:FALSE
            echo keyUsage=critical,digitalSignature
            echo extendedKeyUsage=clientAuth,serverAuth
            [ -z "$names" ] || echo "subjectAltName=$names"
        )
    rm -f "$PKI/$name.csr"
}

# Certificates are embedded, so that the file can be copied elsewhere.
pki_kubeconfig() {
    local name=$1 file=$2
    (umask 077 && cat >"$file.new") <<YAML
apiVersion: v1
kind: Config
clusters:
  - name: ocibuild-dev
    cluster:
      server: https://$NODE_ADDRESS:6443
      certificate-authority-data: $(base64 -w0 "$PKI/ca.crt")
users:
  - name: $name
    user:
      client-certificate-data: $(base64 -w0 "$PKI/$name.crt")
      client-key-data: $(base64 -w0 "$PKI/$name.key")
contexts:
  - name: ocibuild-dev
    context: { cluster: ocibuild-dev, user: $name }
current-context: ocibuild-dev
YAML
    mv "$file.new" "$file"
}
