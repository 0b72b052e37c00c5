#!/usr/bin/env bash
# Builds the images of docker/Dockerfile, prints what each layer weighs, and fails when an image is over its budget.
#
#   docker/build.sh [TARGET…]       one of docker/Dockerfile; default: all without CUDA
#
# Uses Docker where an engine runs, else buildah as root. Images are called runpod-worker/TARGET, with the version as a tag
# and as latest; buildah puts localhost/ before that. They are for x86-64, as the libtorch of PyPI with CUDA is.
#
# From the environment, all optional:
#   BASE_IMAGE, RUST_IMAGE    used instead of Debian's and Rust's images, for example a mirror's, pinned by digest
#   REGISTRY                  prefix of the image names instead of runpod-worker, for example registry.example.com/team
#   CA_BUNDLE                 file of certificates to trust while building; default: SSL_CERT_FILE
#   APT_MIRROR, PIP_INDEX_URL, CARGO_MIRROR, HTTP_PROXY …     see docker/behind-proxy.sh
# If no registry can be reached, docker/local-base.sh makes the base images.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Size limits in megabytes: for each image, and for the layers that a code change ships. The builder image has no limit.
declare -A budget=([endpoint]=200 [worker-base]=200 [worker-base-cpu]=1200 [example]=1300 [worker-base-cuda]=5500 [example-cuda]=5600)
code_budget=30

say() { printf 'image: %s\n' "$*"; }
fail() {
    printf 'image: error: %s\n' "$*" >&2
    exit 1
}

if docker info >/dev/null 2>&1; then
    engine=docker
elif command -v buildah >/dev/null; then
    [[ $(id -u) == 0 ]] || fail 'buildah is used as root here: run this as root, or start a Docker engine'
    engine=buildah
else
    fail 'there is neither a Docker engine nor buildah: apt-get install -y buildah debootstrap'
fi

work=$(mktemp -d "${TMPDIR:-/var/tmp}/runpod-worker-image.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# build ARGS… CONTEXT
build() {
    case $engine in
    docker) DOCKER_BUILDKIT=1 docker build --platform linux/amd64 "$@" ;;
    # The format that keeps HEALTHCHECK.
    buildah) buildah bud --isolation chroot --network host --format docker --layers "$@" ;;
    esac
}
exists() {
    case $engine in
    docker) docker image inspect "$1" >/dev/null 2>&1 ;;
    buildah) buildah inspect --type image "$1" >/dev/null 2>&1 ;;
    esac
}
save() {
    case $engine in
    docker) docker save "$1" ;;
    buildah) buildah push --quiet "$1" docker-archive:/dev/stdout ;;
    esac
}

# base_image NAME DEFAULT: prints the image to use, and makes a stand-in if the default cannot be pulled.
base_image() {
    local name=$1 image=$2 local_image=runpod-worker/$1
    if exists "$image" || timeout 900 "$engine" pull "$image" >"$work/pull.log" 2>&1; then
        echo "$image" && return
    fi
    if ! exists "$local_image"; then
        say "$image cannot be pulled ($(tail -1 "$work/pull.log")); making a stand-in" >&2
        mkdir "$work/$name"
        docker/local-base.sh "$name" "$work/$name"
        build --tag "$local_image" "$work/$name" >&2
        rm -rf "${work:?}/$name"
    fi
    echo "$local_image"
}

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
revision=$(git describe --always --abbrev=40 --match '' --dirty 2>/dev/null || echo unknown)
torch_version=$(sed -n 's/^torch_version=//p' docker/install-libtorch.sh)
cuda_version=$(sed -n 's/^nvidia-cuda-runtime==\([0-9.]*\).*/\1/p' docker/install-libtorch.sh)
default_of() { sed -n "s/^ARG $1=//p" docker/Dockerfile; }

base=${BASE_IMAGE:-$(base_image base "$(default_of BASE_IMAGE)")}
rust=${RUST_IMAGE:-$(base_image rust "$(default_of RUST_IMAGE)")}
common=(--file docker/Dockerfile --build-arg "BASE_IMAGE=$base" --build-arg "RUST_IMAGE=$rust"
    --label "org.opencontainers.image.version=$version" --label "org.opencontainers.image.revision=$revision"
    --label 'org.opencontainers.image.licenses=MIT OR Apache-2.0' --label "org.opencontainers.image.base.name=$base")
for name in APT_MIRROR PIP_INDEX_URL CARGO_MIRROR {HTTP,HTTPS,NO}_PROXY {http,https,no}_proxy; do
    [[ -z ${!name:-} ]] || common+=(--build-arg "$name=${!name}")
done
bundle=${CA_BUNDLE:-${SSL_CERT_FILE:-}}
[[ -z $bundle ]] || common+=(--secret "id=ca_bundle,src=$bundle")

# Labels the image with a hash of the handler's input and output schemas: images with the same hash are interchangeable.
label_schema() {
    local image=$1 container hash
    case $engine in
    docker) docker run --rm "$image" runpod-worker schema -- /app/handler >"$work/schema.json" ;;
    buildah)
        container=$(buildah from "$image")
        buildah run --isolation chroot "$container" -- runpod-worker schema -- /app/handler >"$work/schema.json"
        buildah rm "$container" >/dev/null
        ;;
    esac
    hash=$(sha256sum "$work/schema.json" | cut -d' ' -f1)
    mkdir -p "$work/label"
    printf 'FROM %s\nLABEL runpod-worker.handler-schema="sha256:%s"\n' "$image" "$hash" >"$work/label/Dockerfile"
    build --tag "$image" "$work/label"
}

(($#)) || set -- endpoint worker-base worker-base-cpu builder example
status=0
for target in "$@"; do
    image=${REGISTRY:-runpod-worker}/$target
    options=("${common[@]}" --target "$target" --tag "$image")
    case $target in
    endpoint | worker-base) ;;
    worker-base-cpu | worker-base-cuda | builder) options+=(--label "runpod-worker.libtorch=$torch_version") ;;
    example | example-cuda)
        options+=(--label "runpod-worker.libtorch=$torch_version" --label 'org.opencontainers.image.title=text-embeddings')
        ;;
    *) fail "unknown target '$target': use one of those that docker/Dockerfile lists at its top" ;;
    esac
    [[ $target != *cuda ]] || options+=(--label "runpod-worker.cuda=$cuda_version")
    say "building $image with $engine"
    build "${options[@]}" .
    [[ $target != example* ]] || label_schema "$image"
    "$engine" tag "$image" "$image:$version"
    limits=()
    [[ -z ${budget[$target]:-} ]] || limits=(--code-budget "$code_budget" --budget "${budget[$target]}")
    save "$image" | docker/layers.py "$image" "${limits[@]}" || status=1
done
((status == 0)) || fail 'an image could not be weighed or is over its budget: see above'
