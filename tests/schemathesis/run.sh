#!/usr/bin/env bash
# Throws what schemathesis makes of /openapi.json at a running endpoint: no 5xx, no status and no body that is not documented.
# Takes about a minute. Arguments go to schemathesis: tests/schemathesis/run.sh --max-examples 1000
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

version=4.32.5
packages=.venv/schemathesis
program=${RUNPOD_ENDPOINT_BIN:-target/debug/runpod-endpoint}

if [[ ! -e $packages/.installed-$version ]]; then
    python3 -m pip --version >/dev/null 2>&1 || { echo 'python3 with pip is needed: apt-get install -y python3-pip' >&2; exit 1; }
    rm -rf "$packages"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$packages" "schemathesis==$version"
    touch "$packages/.installed-$version"
fi
[[ -n ${RUNPOD_ENDPOINT_BIN:-} ]] || cargo build --locked --package runpod-endpoint

folder=$(mktemp -d)
: >"$folder/out"
started=()
finish() {
    ((${#started[@]} == 0)) || kill "${started[@]}" 2>/dev/null || true
    wait
    rm -rf "$folder"
}
trap finish EXIT

RUST_LOG=warn "$program" serve --bind 127.0.0.1:0 --hold 1s >"$folder/out" 2>"$folder/log" &
started+=($!)
url=''
for ((tries = 0; tries < 100; tries++)); do
    url=$(sed -n 's/^RunPod-compatible endpoint: //p' "$folder/out")
    [[ -z $url ]] || break
    kill -0 "${started[0]}" 2>/dev/null || { cat "$folder/log" >&2; exit 1; }
    sleep 0.1
done
[[ -n $url ]] || { echo "$program printed no address within 10 s" >&2; exit 1; }
python3 tests/schemathesis/worker.py "$url" 2>"$folder/worker" &
started+=($!)

# The seed makes a failure repeatable. Nothing is kept between runs: schemathesis writes a cache into the working folder.
config=$PWD/tests/schemathesis/schemathesis.toml
export PYTHONPATH=$PWD/$packages
cd "$folder"
python3 -m schemathesis.cli --config-file "$config" run "${url%/v2/local}/openapi.json" \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method,use_after_free \
    --seed 1 --max-examples 40 --max-time 60 --request-timeout 20 --generation-database none --no-color "$@"
