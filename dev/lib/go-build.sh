# How each tool is compiled. Part of the stamp of every binary: a change here builds all of them again.
# shellcheck shell=bash

# go_build DIRECTORY TOOL VERSION PACKAGE…: compiles packages of a tool's module into a directory.
go_build() {
    local directory=$1 tool=$2 version=$3 flags='-s -w' tags=''
    shift 3
    local cgo=0
    local -a minor
    IFS=. read -r -a minor <<<"${version#v}"
    case $tool in
        kubernetes)
            # Without these the node reports v0.0.0, and clients misjudge what the server can do.
            flags+=" -X k8s.io/component-base/version.gitVersion=$version"
            flags+=" -X k8s.io/component-base/version.gitMajor=${minor[0]} -X k8s.io/component-base/version.gitMinor=${minor[1]}"
            ;;
        buildkit) flags+=" -X github.com/moby/buildkit/version.Version=$version" ;;
        containerd) flags+=" -X github.com/containerd/containerd/v2/version.Version=$version" ;;
        helm) flags+=" -X helm.sh/helm/v4/internal/version.version=$version" ;;
        kwok) flags+=" -X sigs.k8s.io/kwok/pkg/consts.Version=$version" ;;
        kubeconform) flags+=" -X main.version=$version" ;;
        runc)
            # libseccomp is C. Static, for the same binary serves the node and the BuildKit images.
            cgo=1
            tags=seccomp,netgo,osusergo
            flags+=" -extldflags=-static -X main.version=${version#v}"
            ;;
    esac
    (
        cd "$DEV/tools/$tool" || exit
        CGO_ENABLED=$cgo GOFLAGS=-buildvcs=false GOWORK=off \
            go build -v -trimpath -tags "$tags" -ldflags "$flags" -o "$directory/" "$@"
    )
}
