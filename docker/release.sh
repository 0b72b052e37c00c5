#!/usr/bin/env bash
# Builds the programs that are released, twice, from two copies of this commit in different folders, and compares them byte by
# byte. What differs would carry something of the machine that built it.
#
#   docker/release.sh          leaves target/dist/runpod-worker, target/dist/runpod-endpoint and their checksums
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

programs=(runpod-worker runpod-endpoint)
dist=target/dist
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

build() {
    local copy=$work/$1
    mkdir "$copy"
    git archive HEAD | tar -x -C "$copy"
    # Paths of this machine are in panic messages unless they are renamed.
    (
        cd "$copy"
        SOURCE_DATE_EPOCH=$(git -C "$OLDPWD" log -1 --format=%ct) \
            RUSTFLAGS="--remap-path-prefix=$copy=/src --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo" \
            CFLAGS="-ffile-prefix-map=$copy=/src -ffile-prefix-map=${CARGO_HOME:-$HOME/.cargo}=/cargo" \
            cargo build --release --locked --quiet --package runpod-worker --package runpod-endpoint --bins
    )
}

[[ -z $(git status --porcelain) ]] || echo 'release: what is not committed is not in the release' >&2
build first
build second
mkdir -p "$dist"
for program in "${programs[@]}"; do
    cmp "$work/first/target/release/$program" "$work/second/target/release/$program" ||
        { echo "release: error: two builds of $program differ" >&2 && exit 1; }
    install "$work/first/target/release/$program" "$dist/"
done
(cd "$dist" && sha256sum "${programs[@]}" | tee SHA256SUMS && ls -l "${programs[@]}")
