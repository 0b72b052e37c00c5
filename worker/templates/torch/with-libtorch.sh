#!/bin/sh
# Starts the compiler if libtorch is there.
libtorch=${LIBTORCH:-$(cd "$(dirname "$0")/.." && pwd)/.libtorch/torch}
if [ ! -e "$libtorch/lib/libtorch_cpu.so" ]; then
    echo "libtorch is not in $libtorch: run \`runpod-worker libtorch\`" >&2
    # Cargo keeps the answer for as long as this file is unchanged.
    touch "$0"
    exit 1
fi
exec "$@"
