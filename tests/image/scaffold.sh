#!/usr/bin/env bash
# Writes a new handler crate as `runpod-worker new` does, ready to be built by its own Dockerfile: the SDK is the one in the builder
# image, and all other dependencies lie beside the sources, so the build needs no network.
#
#   tests/image/scaffold.sh FOLDER [--torch]       writes FOLDER/my-handler
set -euo pipefail
folder=$1
shift
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
worker=${CARGO_TARGET_DIR:-$repository/target}/debug/runpod-worker

(cd "$folder" && "$worker" new my-handler "$@")
cd "$folder/my-handler"
# The versions that are known to work together.
cp "$repository/Cargo.lock" .
mkdir -p .cargo
# Nothing is compiled, so libtorch is not needed here.
CARGO_BUILD_RUSTC_WRAPPER='' cargo vendor --quiet
printf '\n[source.crates-io]\nreplace-with = "vendored"\n[source.vendored]\ndirectory = "vendor"\n' >>.cargo/config.toml
