#!/usr/bin/env bash
# Tests an image that docker/build.sh has made: unpacks it, then runs its programs from there, not from the build tree.
#
#   tests/image/run.sh [example|example-cuda]       needs root
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

image=localhost/runpod-worker/${1:-example}
[[ $(id -u) == 0 ]] || { echo 'image test: root is needed to enter the image' >&2 && exit 1; }

work=$(mktemp -d "${TMPDIR:-/var/tmp}/runpod-worker-image.XXXXXX")
container=
finish() {
    [[ -z $container ]] || buildah rm "$container" >/dev/null
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if docker info >/dev/null 2>&1; then
    mkdir "$work/root"
    created=$(docker create "$image")
    docker export "$created" | tar --extract --numeric-owner --directory "$work/root"
    docker rm "$created" >/dev/null
    docker image inspect --format '{{json .Config}}' "$image" >"$work/config.json"
    root=$work/root
else
    container=$(buildah from "$image")
    root=$(buildah mount "$container")
    buildah inspect --type image "$image" |
        python3 -c 'import json, sys; json.dump(json.load(sys.stdin)["Docker"]["config"], sys.stdout)' >"$work/config.json"
fi

# The whole workspace, so that features and therefore dependencies are those of `make test`.
IMAGE_ROOT=$root IMAGE_CONFIG=$work/config.json \
    cargo test --workspace --locked --test image -- --ignored --nocapture
