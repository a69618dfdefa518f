# Puts the operator on a cluster: the development cluster, or one that answers already. Sourced by dev/demo, dev/test, dev/bench.
# shellcheck shell=bash

OPERATOR_NAMESPACE=ocibuild-system
OPERATOR_IMAGE_NAME=ocibuild.dev/ocibuild:dev
# Of a cluster that somebody else runs; empty for the development cluster.
FOREIGN_CONTEXT=

# Reads --context NAME; what is left is in REST.
choose_cluster() {
    REST=()
    while [ $# -gt 0 ]; do
        case $1 in
            --context)
                FOREIGN_CONTEXT=${2:-}
                [ -n "$FOREIGN_CONTEXT" ] || die "--context needs the name of a context of your kubeconfig"
                shift 2
                ;;
            *)
                REST+=("$1")
                shift
                ;;
        esac
    done
}

is_development_cluster() { [ -z "$FOREIGN_CONTEXT" ] && [ "${OCIBUILD_KUBECONFIG:-$ADMIN_KUBECONFIG}" = "$ADMIN_KUBECONFIG" ]; }

# After this kubectl, helm and the tests speak to the cluster.
cluster_up() {
    if is_development_cluster; then
        "$DEV/cluster" up
        eval "$("$DEV/cluster" env)"
        return
    fi
    command -v kubectl >/dev/null || die "kubectl is not on PATH; it is needed to use a cluster that you have"
    command -v helm >/dev/null || die "helm is not on PATH; it is needed to install the operator on a cluster that you have"
    if [ -n "$FOREIGN_CONTEXT" ]; then
        FOREIGN_KUBECONFIG=$(mktemp "${TMPDIR:-/tmp}/ocibuild-kubeconfig.XXXXXX")
        AT_EXIT+=("rm -f $FOREIGN_KUBECONFIG")
        kubectl config view --raw --minify --flatten --context "$FOREIGN_CONTEXT" >"$FOREIGN_KUBECONFIG"
        OCIBUILD_KUBECONFIG=$FOREIGN_KUBECONFIG
    fi
    export OCIBUILD_KUBECONFIG KUBECONFIG=$OCIBUILD_KUBECONFIG
    kubectl version >/dev/null || die "the cluster of $KUBECONFIG does not answer; check it with kubectl get nodes"
}

# The operator's image, where the nodes find it, and the operator itself.
operator_up() {
    if is_development_cluster; then
        "$DEV/images" --load operator
        step "Install the operator with its chart" install_operator --values "$DEV/values.yaml"
        return
    fi
    step "Bring the operator's image to the cluster" foreign_image
    step "Install the operator with its chart" install_operator \
        --set "image.repository=${OPERATOR_IMAGE_NAME%:*},image.tag=${OPERATOR_IMAGE_NAME##*:}"
}

# The same tag may be another image now: an annotation of the image's digest rolls the pods.
install_operator() {
    local image
    image=$(cat "$CACHE/images/operator.digest" 2>/dev/null || echo "$OPERATOR_IMAGE_NAME")
    helm upgrade --install ocibuild "$REPOSITORY/charts/ocibuild" --namespace "$OPERATOR_NAMESPACE" --create-namespace \
        --set-string "podAnnotations.ocibuild\.dev/image=$image" "$@"
    kubectl --namespace "$OPERATOR_NAMESPACE" rollout status deployment/ocibuild --timeout=120s
}

# OCIBUILD_IMAGE names an image that the cluster can pull already; else it is built with docker and loaded into kind or k3d.
foreign_image() {
    local context
    if [ -n "${OCIBUILD_IMAGE:-}" ]; then
        OPERATOR_IMAGE_NAME=$OCIBUILD_IMAGE
        return
    fi
    context=$(kubectl config current-context)
    command -v docker >/dev/null ||
        die "set OCIBUILD_IMAGE to an image of the operator that the cluster $context can pull, or install docker to build one"
    docker build --tag "$OPERATOR_IMAGE_NAME" "$REPOSITORY"
    case $context in
        kind-*) kind load docker-image --name "${context#kind-}" "$OPERATOR_IMAGE_NAME" ;;
        k3d-*) k3d image import --cluster "${context#k3d-}" "$OPERATOR_IMAGE_NAME" ;;
        *) die "push $OPERATOR_IMAGE_NAME to a registry that the cluster $context pulls from and set OCIBUILD_IMAGE to its name" ;;
    esac
}

# Loads an image's tar into the nodes.
load_tar() {
    if is_development_cluster; then
        ctr images import "$1"
        return
    fi
    case $(kubectl config current-context) in
        kind-*) kind load image-archive --name "$(kubectl config current-context | cut -c 6-)" "$1" ;;
        k3d-*) k3d image import --cluster "$(kubectl config current-context | cut -c 5-)" "$1" ;;
        *) return 1 ;;
    esac
}
