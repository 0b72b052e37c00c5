#!/usr/bin/env bash
# Runs the console's browser tests. Installs what they need, as far as it may: Debian's chromium and one npm package.
#   tests/console/run.sh              the tests
#   tests/console/run.sh screenshots  the pictures in docs/images
set -euo pipefail
cd "$(dirname "$0")"

if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
  echo 'node 20 and npm are needed: apt-get install -y nodejs npm' >&2
  exit 1
fi
[[ -n ${CHROMIUM:-} ]] || ../install-packages.sh chromium fonts-dejavu-core
[[ -d node_modules/playwright-core ]] || npm ci --no-audit --no-fund
if [[ -z ${RUNPOD_ENDPOINT_BIN:-} ]]; then
  cargo build --locked --package runpod-endpoint
fi

case ${1:-test} in
  test) exec node --test --test-timeout=120000 console.test.mjs ;;
  screenshots) exec node shots.mjs ;;
  *) echo "unknown: $1 (test or screenshots)" >&2; exit 64 ;;
esac
