#!/usr/bin/env bash
# Tests images that docker/build.sh has made: unpacks them, then runs their programs from there, not from the build tree.
#
#   tests/image/run.sh [example|example-cuda|endpoint|handler]…       needs root; default: example endpoint handler
#
# `handler` is made here: what docs/image.md tells handler authors to write, on worker-base.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

[[ $(id -u) == 0 ]] || { echo 'image test: root is needed to enter the image' >&2 && exit 1; }
docker info >/dev/null 2>&1 && engine=docker || engine=buildah

work=$(mktemp -d "${TMPDIR:-/var/tmp}/runpod-worker-image.XXXXXX")
container= made=
finish() {
    [[ -z $container ]] || buildah rm "$container" >/dev/null
    [[ -z $made ]] || "$engine" rmi "$made" >/dev/null
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The first Dockerfile in the manual, with the echo handler and weights of a few bytes.
build_handler() {
    cargo build --workspace --locked --bins
    mkdir -p "$work/handler/weights"
    echo weights >"$work/handler/weights/model"
    cp "${CARGO_TARGET_DIR:-target}/debug/echo" "$work/handler/my-handler"
    sed -n '/^```dockerfile$/,/^```$/p' docs/image.md | sed '1d; /^```$/,$d; s/worker-base-cuda/worker-base/' >"$work/handler/Dockerfile"
    case $engine in
    docker) docker build --quiet --tag runpod-worker/handler "$work/handler" ;;
    buildah) buildah bud --quiet --isolation chroot --format docker --tag runpod-worker/handler "$work/handler" ;;
    esac
    made=runpod-worker/handler
}

# unpack IMAGE: sets `root`, writes $work/config.json
unpack() {
    case $engine in
    docker)
        root=$work/root
        rm -rf "$root"
        mkdir "$root"
        created=$(docker create "$1")
        docker export "$created" | tar --extract --numeric-owner --directory "$root"
        docker rm "$created" >/dev/null
        docker image inspect --format '{{json .Config}}' "$1" >"$work/config.json"
        ;;
    buildah)
        [[ -z $container ]] || buildah rm "$container" >/dev/null
        container=$(buildah from "$1")
        root=$(buildah mount "$container")
        buildah inspect --type image "$1" |
            python3 -c 'import json, sys; json.dump(json.load(sys.stdin)["Docker"]["config"], sys.stdout)' >"$work/config.json"
        ;;
    esac
}

(($#)) || set -- example endpoint handler
for target in "$@"; do
    [[ $target != handler ]] || build_handler
    unpack "runpod-worker/$target"
    # The whole workspace, so that features and therefore dependencies are those of `make test`.
    IMAGE_ROOT=$root IMAGE_CONFIG=$work/config.json \
        cargo test --workspace --locked --test image -- --ignored --nocapture "${target%-cuda}::"
done
