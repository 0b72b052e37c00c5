#!/usr/bin/env bash
# Runs the console's browser tests. Installs what they need: node, unless there is one, Debian's chromium and nginx, and one npm
# package.
#   tests/console/run.sh              the tests
#   tests/console/run.sh screenshots  the pictures in docs/images
set -euo pipefail
cd "$(dirname "$0")"

command -v node >/dev/null && command -v npm >/dev/null || ../install-packages.sh nodejs npm
[[ -x /usr/sbin/nginx ]] && command -v openssl >/dev/null || ../install-packages.sh nginx openssl
[[ -n ${CHROMIUM:-} ]] || ../install-packages.sh chromium fonts-dejavu-core
[[ -d node_modules/playwright-core ]] || npm ci --no-audit --no-fund
if [[ -z ${RUNPOD_ENDPOINT_BIN:-} ]]; then
  cargo build --locked --package runpod-endpoint
fi

case ${1:-test} in
  test) exec node --test console.test.mjs prefix.test.mjs ;;
  screenshots) exec node shots.mjs ;;
  *) echo "unknown: $1 (test or screenshots)" >&2; exit 64 ;;
esac
