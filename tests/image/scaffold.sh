#!/usr/bin/env bash
# Writes a new handler crate as `runpod-worker new` does for a stranger, ready to be built by its own Dockerfile before the SDK
# is published: the SDK's packages and all dependencies lie beside the sources, so the build needs no network.
#
#   tests/image/scaffold.sh FOLDER [--torch]       writes FOLDER/my-handler
set -euo pipefail
folder=$1
shift
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
worker=${CARGO_TARGET_DIR:-$repository/target}/debug/runpod-worker
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$repository/Cargo.toml" | head -1)
packages=(runpod-handler-protocol runpod-handler-sdk)

(cd "$folder" && "$worker" new my-handler "$@")
cd "$folder/my-handler"
# The versions that are known to work together.
cp "$repository/Cargo.lock" .
mkdir -p packages .cargo
(cd "$repository" && cargo package --quiet --no-verify --allow-dirty --locked --target-dir "$folder/packages" "${packages[@]/#/--package=}")
for package in "${packages[@]}"; do
    tar --extract --file "$folder/packages/package/$package-$version.crate" --directory packages
    printf '[patch.crates-io.%s]\npath = "packages/%s"\n' "$package" "$package-$version" >>.cargo/config.toml
done
cargo vendor --quiet
printf '[source.crates-io]\nreplace-with = "vendored"\n[source.vendored]\ndirectory = "vendor"\n' >>.cargo/config.toml
