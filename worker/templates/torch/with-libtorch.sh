#!/bin/sh
# Starts the compiler if libtorch is there.
libtorch=${LIBTORCH:-$(cd "$(dirname "$0")/.." && pwd)/.libtorch/torch}
if [ ! -e "$libtorch/lib/libtorch_cpu.so" ]; then
    echo "libtorch is not in $libtorch: run \`runpod-worker libtorch\`" >&2
    exit 1
fi
exec "$@"
