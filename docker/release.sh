#!/usr/bin/env bash
# Builds the release programs twice, from two copies of this commit in different folders, and compares them byte by byte. A
# difference would mean that a program contains something of the machine that built it.
#
#   docker/release.sh          leaves target/dist/runpod-worker, target/dist/runpod-endpoint and their checksums
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

programs=(runpod-worker runpod-endpoint)
dist=target/dist
work=$(mktemp -d "${TMPDIR:-/var/tmp}/runpod-worker-release.XXXXXX")
cargo_home=${CARGO_HOME:-$HOME/.cargo}
trap 'rm -rf "$work"' EXIT

build() {
    local copy=$work/$1
    mkdir "$copy"
    git archive HEAD | tar -x -C "$copy"
    echo "release: the $1 build"
    # Panic messages and C code contain paths of this machine unless they are remapped.
    (
        cd "$copy"
        RUSTFLAGS="--remap-path-prefix=$copy=/src --remap-path-prefix=$cargo_home=/cargo" \
            CFLAGS="-ffile-prefix-map=$copy=/src -ffile-prefix-map=$cargo_home=/cargo" \
            cargo build --release --locked --target-dir target --package runpod-worker --package runpod-endpoint --bins
    )
}

[[ -z $(git status --porcelain) ]] || echo 'release: uncommitted changes are not in the release' >&2
export SOURCE_DATE_EPOCH
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
build first
build second
mkdir -p "$dist"
for program in "${programs[@]}"; do
    cmp "$work/first/target/release/$program" "$work/second/target/release/$program" ||
        { echo "release: error: two builds of $program differ" >&2 && exit 1; }
    install "$work/first/target/release/$program" "$dist/"
done
(cd "$dist" && sha256sum "${programs[@]}" | tee SHA256SUMS && ls -l "${programs[@]}")
