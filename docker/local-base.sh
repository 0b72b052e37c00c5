#!/usr/bin/env bash
# Makes stand-ins for the two base images from a Debian mirror and this machine's Rust toolchain, for machines that cannot reach an
# image registry. Prints nothing on stdout; needs root and debootstrap.
#
#   docker/local-base.sh base|rust FOLDER      writes FOLDER/Dockerfile and FOLDER/root.tar
#
# `rust` needs the image runpod-worker/base.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

suite=bookworm
mirror=${APT_MIRROR:-http://deb.debian.org}
what=$1 folder=$2

# Removes what Debian's own slim images leave out too.
slim() {
    rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/var/log/* "$1"/usr/share/man/* "$1"/usr/share/info/* \
        "$1"/usr/share/locale/*
    find "$1/usr/share/doc" -type f ! -name copyright -delete
    mkdir -p "$1/etc/dpkg/dpkg.cfg.d"
    printf 'path-exclude /usr/share/%s/*\n' man info locale >"$1/etc/dpkg/dpkg.cfg.d/slim"
}

case $what in
base)
    command -v debootstrap >/dev/null || { echo 'debootstrap is needed: apt-get install -y debootstrap' >&2 && exit 1; }
    debootstrap --variant=minbase "$suite" "$folder/root" "$mirror/debian" >&2
    {
        echo "deb http://deb.debian.org/debian $suite main"
        echo "deb http://deb.debian.org/debian $suite-updates main"
        echo "deb http://deb.debian.org/debian-security $suite-security main"
    } >"$folder/root/etc/apt/sources.list"
    slim "$folder/root"
    tar --create --numeric-owner --file "$folder/root.tar" --directory "$folder/root" .
    rm -rf "$folder/root"
    printf 'FROM scratch\nADD root.tar /\nENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nCMD ["bash"]\n' \
        >"$folder/Dockerfile"
    ;;
rust)
    # The toolchain that rust-toolchain.toml names, without its manual.
    tar --create --file "$folder/root.tar" --directory "$(rustc --print sysroot)" --exclude ./share/doc --exclude ./share/man .
    printf 'FROM runpod-worker/base\nADD root.tar /usr/local/\n' >"$folder/Dockerfile"
    ;;
*) echo "unknown image '$what': use base or rust" >&2 && exit 64 ;;
esac
