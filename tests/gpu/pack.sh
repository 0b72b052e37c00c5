#!/usr/bin/env bash
# Packs everything that the GPU benchmark needs into target/gpu-bench.tar.xz, for a machine with a CUDA GPU, Python with PyTorch 2.11 and
# tokenizers, and no network.
#
#   tests/gpu/pack.sh [--weights seeded|half] [--python 3.12]
#
# --weights seeded (the default) makes random weights on that machine, from a seed; half carries the real ones in half precision (45 MB).
# --python is that machine's version of Python: the packages of the official worker are made for it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

runpod_version=1.12.0
# Whatever travels should fit into 60 MB.
limit=$((60 * 1000 * 1000))

fail() {
    printf 'pack: error: %s\n' "$*" >&2
    exit 1
}

weights=seeded
python=3.12
while (($#)); do
    case $1 in
    --weights) weights=${2:-} && shift 2 || fail '--weights needs a value: seeded or half' ;;
    --python) python=${2:-} && shift 2 || fail '--python needs a value, such as 3.12' ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" && exit 0 ;;
    *) fail "unknown argument '$1': the arguments are --weights and --python" ;;
    esac
done

cargo build --release --locked --package runpod-worker --package runpod-endpoint --package text-embeddings --bins
docker/install-model.sh
model=.models/all-MiniLM-L6-v2
pack=target/gpu-bench
rm -rf "$pack"
mkdir -p "$pack"/{bin,model,site}
install -t "$pack/bin" target/release/{runpod-worker,runpod-endpoint,text-embeddings}
install -m 644 -t "$pack/model" "$model"/{config,sentence_bert_config,tokenizer}.json
install -t "$pack" tests/gpu/{bench,official,weights}.py
case $weights in
seeded) ;;
half) python3 tests/gpu/weights.py half "$model/model.safetensors" "$pack/model/model.safetensors" ;;
*) fail "unknown weights '$weights': use seeded or half" ;;
esac
platforms=()
for libc in _2_28 _2_27 _2_26 _2_24 _2_17 2014 _2_12 2010 _2_5 1; do
    platforms+=(--platform "manylinux${libc}_x86_64")
done
python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$pack/site" \
    --no-warn-conflicts --python-version "$python" --implementation cp --only-binary=:all: "${platforms[@]}" "runpod==$runpod_version"
# The worker never loads these, which are half of its packages.
rm -rf "$pack"/site/{boto3,botocore,s3transfer,uvloop,sentry_sdk,opentelemetry,google,pydantic,pydantic_core,fastapi,bin}
find "$pack/site" -name __pycache__ -prune -exec rm -rf {} +
tar -C target -cJf "$pack.tar.xz" gpu-bench
size=$(stat -c %s "$pack.tar.xz")
((size <= limit)) || fail "$pack.tar.xz has $size bytes, over $limit: use --weights seeded"
echo "$pack.tar.xz: $((size / 1000 / 1000)) MB. There: tar xf gpu-bench.tar.xz && python3 gpu-bench/bench.py"
