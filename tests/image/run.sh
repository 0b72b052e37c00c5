#!/usr/bin/env bash
# Tests images that docker/build.sh has made: unpacks them, then runs their programs from there, not from the build tree.
#
#   tests/image/run.sh [example|example-cuda|endpoint|new-plain|new-torch|three-lines]…
#
# Needs root. By default all but example-cuda. The last three are made here, as handler authors make them: what `runpod-worker
# new` writes, by its own Dockerfile, and the lines that docs/image.md tells them to write.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

[[ $(id -u) == 0 ]] || { echo 'image test: root is needed to enter the image' >&2 && exit 1; }
docker info >/dev/null 2>&1 && engine=docker || engine=buildah

work=$(mktemp -d "${TMPDIR:-/var/tmp}/runpod-worker-image.XXXXXX")
container= made=()
finish() {
    [[ -z $container ]] || buildah rm "$container" >/dev/null
    ((${#made[@]} == 0)) || "$engine" rmi "${made[@]}" >/dev/null
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# build_image TARGET FOLDER
build_image() {
    case $engine in
    docker) docker build --quiet --tag "runpod-worker/$1" --build-arg DEVICE=cpu "$2" ;;
    buildah) buildah bud --quiet --isolation chroot --format docker --tag "runpod-worker/$1" --build-arg DEVICE=cpu "$2" ;;
    esac
    made+=("runpod-worker/$1")
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

build_new() {
    mkdir "$work/new-$1"
    case $1 in
    plain) tests/image/scaffold.sh "$work/new-$1" ;;
    torch) tests/image/scaffold.sh "$work/new-$1" --torch ;;
    esac
    build_image "new-$1" "$work/new-$1/my-handler"
}

# The first Dockerfile in the manual, with the handler of new-plain and weights of a few bytes.
build_three_lines() {
    [[ -d $work/new-plain ]] || build_new plain
    unpack runpod-worker/new-plain
    mkdir -p "$work/three-lines/weights"
    echo weights >"$work/three-lines/weights/model"
    cp "$root/app/handler" "$work/three-lines/my-handler"
    sed -n '/^```dockerfile$/,/^```$/p' docs/image.md | sed '1d; /^```$/,$d; s/worker-base-cuda/worker-base/' >"$work/three-lines/Dockerfile"
    build_image three-lines "$work/three-lines"
}

(($#)) || set -- example endpoint new-plain new-torch three-lines
# The whole workspace, so that features and therefore dependencies are those of `make test`.
cargo build --workspace --locked --bins
for target in "$@"; do
    tests=handler::${target//-/_}
    case $target in
    new-plain | new-torch) build_new "${target#new-}" ;;
    three-lines) build_three_lines ;;
    example | example-cuda) tests=example:: ;;
    endpoint) tests=endpoint:: ;;
    *) echo "image test: nothing is tested of '$target': see the top of this file" >&2 && exit 64 ;;
    esac
    unpack "runpod-worker/$target"
    IMAGE_ROOT=$root IMAGE_CONFIG=$work/config.json \
        cargo test --workspace --locked --test image -- --ignored --nocapture "$tests"
done
