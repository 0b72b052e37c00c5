#!/bin/sh
# Runs one command of the image build with the certificates and mirrors of the building machine, and leaves no trace of them in
# the image.
#
#   docker/behind-proxy.sh COMMAND ARGS…
#
# The build secret `ca_bundle` is a file of certificates to trust. Build arguments: APT_MIRROR replaces
# http://deb.debian.org, PIP_INDEX_URL for PyPI, CARGO_MIRROR (a sparse index) for crates.io. Every engine passes on HTTP_PROXY,
# HTTPS_PROXY and NO_PROXY by itself.
set -eu

bundle=/run/secrets/ca_bundle
apt_config=/etc/apt/apt.conf.d/99ca-bundle
cargo_config=${CARGO_HOME:-}/config.toml
sources=

if [ -s "$bundle" ]; then
    export PIP_CERT="$bundle" CARGO_HTTP_CAINFO="$bundle"
    echo "Acquire::https::CaInfo \"$bundle\";" >"$apt_config"
fi
if [ -n "${APT_MIRROR:-}" ]; then
    sources=$(grep -rlF http://deb.debian.org /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null || true)
    for file in $sources; do sed -i.original "s|http://deb.debian.org|$APT_MIRROR|g" "$file"; done
fi
if [ -n "${CARGO_MIRROR:-}" ]; then
    printf '[source.crates-io]\nreplace-with = "mirror"\n[source.mirror]\nregistry = "%s"\n' "$CARGO_MIRROR" >"$cargo_config"
fi

status=0
"$@" || status=$?

for file in $sources; do mv "$file.original" "$file"; done
rm -f "$apt_config"
[ -z "${CARGO_MIRROR:-}" ] || rm -f "$cargo_config"
exit $status
