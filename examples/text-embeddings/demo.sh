#!/usr/bin/env bash
# Runs sample jobs through a local endpoint, a worker and the text-embeddings handler, and prints every step.
#
#   make demo       build, run the jobs, print results and health, stop; exits with 0 when every step worked
#   make dev        build, start the same endpoint and worker, and leave them running
#
# PROFILE_DIR is the directory of the programs (default: target/debug).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

bin=${PROFILE_DIR:-target/debug}
example=examples/text-embeddings
# Longest waits for a start and a stop, in seconds.
start_limit=60
stop_limit=45

stay=no
case ${1:-} in
'') ;;
--stay) stay=yes ;;
*) printf 'demo: error: unknown argument %q: the only one is --stay\n' "$1" >&2 && exit 64 ;;
esac

heading() { printf '\n== %s\n' "$*"; }
fail() {
    printf 'demo: error: %s\n' "$*" >&2
    exit 1
}

for program in runpod-endpoint runpod-worker text-embeddings similarity; do
    [[ -x $bin/$program ]] || fail "$bin/$program is not built: run make demo"
done
[[ -f .models/all-MiniLM-L6-v2/model.safetensors ]] || fail 'the model is not installed: run make model'

# Prints the first port from $1 on that no program listens on.
free_port() {
    local port
    for ((port = $1; port < $1 + 100; port++)); do
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port" && return; }
    done
    fail "ports $1 to $((port - 1)) are all in use: stop one of the programs that hold them"
}

work=$(mktemp -d)
endpoint=
finish() {
    local status=$?
    trap - EXIT
    if [[ -n $endpoint ]] && kill -0 "$endpoint" 2>/dev/null; then
        kill -TERM "$endpoint" 2>/dev/null || true
        wait_for_end || kill -KILL "$endpoint" 2>/dev/null || true
    fi
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Waits until the endpoint has exited; fails after $stop_limit seconds.
wait_for_end() {
    local deadline=$((SECONDS + stop_limit))
    while kill -0 "$endpoint" 2>/dev/null; do
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}

port=$(free_port 8000)
worker_port=$(free_port $((port + 1)))
export RUNPOD_ENDPOINT_URL=http://127.0.0.1:$port/v2/local
worker_url=http://127.0.0.1:$worker_port

heading "starting endpoint and worker (the lines of their log begin with |)"
# In a session of its own, so that Ctrl-C reaches only this script: a second signal would make the endpoint stop at once.
setsid "$bin/runpod-endpoint" dev --bind "127.0.0.1:$port" --worker-http-port "$worker_port" --stop-grace 20s \
    -- "$bin/text-embeddings" > >(trap '' INT TERM && exec sed -u 's/^/  | /') 2>&1 &
endpoint=$!

# Retries a command until it succeeds; the demo fails when the endpoint exits or after $start_limit seconds.
until_works() {
    local what=$1 deadline=$((SECONDS + start_limit))
    shift
    until "$@" >/dev/null 2>&1; do
        kill -0 "$endpoint" 2>/dev/null || fail "the endpoint exited before $what: see its log above"
        ((SECONDS < deadline)) || fail "$what took more than $start_limit s: see the log above"
        sleep 0.1
    done
}
until_works 'it answered' "$bin/runpod-endpoint" health

# Prints the changes of a job's state as they arrive, and writes the final document to $work/NAME.json.
print_states() {
    local name=$1 line
    while read -r line; do
        case $line in
        *'"elapsedMs"'*) sed -E 's/.*"elapsedMs":([0-9]+),"status":"([A-Z_]+)","timestamp":"([^"]+)".*/  \3  +\1 ms  \2/' <<<"$line" ;;
        *) printf '%s\n' "$line" >"$work/$name.json" ;;
        esac
    done
    printf '  milliseconds: %s\n' "$(grep -oE '"(delay|execution)Time":[0-9]+' "$work/$name.json" | paste -sd' ')"
}

# Submits a request file and follows the job to its end; fails if the job fails.
run_job() {
    "$bin/runpod-endpoint" submit --json --watch --input "$2" | print_states "$1"
}

if [[ $stay == yes ]]; then
    until_works 'the worker was ready' curl -fsS --max-time 5 "$worker_url/ready"
    cat <<END

Ready. In another terminal:

  curl -s $RUNPOD_ENDPOINT_URL/runsync -d @$example/test_input.json
  curl -s $RUNPOD_ENDPOINT_URL/run -d '{"input": {"input": "one text"}}'
  curl -s $RUNPOD_ENDPOINT_URL/status/JOB_ID
  curl -s $RUNPOD_ENDPOINT_URL/health
  curl -s $worker_url/health
  curl -s $worker_url/metrics

Ctrl-C stops it.
END
    trap 'exit 0' INT TERM
    status=0
    wait "$endpoint" || status=$?
    endpoint=
    fail "the endpoint exited unexpectedly with status $status: see its log above"
fi

heading "job 1: 512 texts, submitted while the model is still loading"
text='"A serverless worker takes a job from the queue, runs it on the accelerator and posts the result."'
printf '{"input": {"input": [%s' "$text" >"$work/many.request.json"
for ((i = 1; i < 512; i++)); do printf ',%s' "$text"; done >>"$work/many.request.json"
printf ']}}' >>"$work/many.request.json"
run_job many "$work/many.request.json" || fail 'the job did not complete'

heading "job 2: six sentences"
run_job sentences "$example/test_input.json" || fail 'the job did not complete'

heading "job 3: a model that does not exist: the job must fail"
printf '{"input": {"model": "no-such-model", "input": "text"}}' >"$work/unknown.request.json"
run_job unknown "$work/unknown.request.json" 2>/dev/null && fail 'the job did not fail'
grep -q '"FAILED"' "$work/unknown.json" || fail 'the state of the job is not FAILED'
cut -c1-400 "$work/unknown.json" | sed 's/^/  /'

heading "similarity of the sentences of job 2"
"$bin/similarity" "$example/test_input.json" <"$work/sentences.json"

heading "the endpoint's health"
"$bin/runpod-endpoint" health
heading "the worker's health: $worker_url/health"
curl -fsS --max-time 10 "$worker_url/health"
echo

heading "stopping"
kill -TERM "$endpoint"
wait_for_end || fail "the endpoint did not stop within $stop_limit s"
status=0
wait "$endpoint" || status=$?
[[ $status == 0 ]] || fail "the endpoint exited with status $status"
endpoint=
heading "done: every step worked"
