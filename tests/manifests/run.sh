#!/usr/bin/env bash
# Validates what is deployed from docker/: manifests, the Compose project and the systemd units. Installs what that needs.
set -euo pipefail
cd "$(dirname "$0")"

command -v npm >/dev/null || ../install-packages.sh nodejs npm
../install-packages.sh systemd
[[ node_modules/.package-lock.json -nt package-lock.json ]] || npm ci --no-audit --no-fund --loglevel=error
node check.mjs

# Units name programs that are installed elsewhere; here they only have to exist.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for unit in ../../docker/systemd/*.service; do
    sed -E 's|^ExecStart=/usr/local/bin/[^ ]+|ExecStart=/bin/true|' "$unit" >"$work/$(basename "$unit")"
done
for unit in runpod-endpoint.service runpod-worker@0.service; do
    problems=$(cd "$work" && SYSTEMD_LOG_LEVEL=warning systemd-analyze verify --man=no --recursive-errors=no "$work/$unit" 2>&1) || true
    [[ -z $problems ]] || { echo "WRONG  systemd/$unit: $problems" && exit 1; }
    echo "ok     systemd/$unit"
done
