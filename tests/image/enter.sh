#!/usr/bin/env bash
# Runs a command in the unpacked file system of an image about as a container engine would: as PID 1 with mounts and a
# writable layer of its own, the image's environment and none of this machine's. The network is this machine's.
#
#   tests/image/enter.sh ROOT USER:GROUP rw|ro FOLDER [NAME=VALUE…] -- COMMAND…
set -euo pipefail

if [[ $1 != --inside ]]; then
    exec unshare --mount --propagation private --pid --fork --kill-child -- "$0" --inside "$@"
fi
root=$2 user=$3 mode=$4 folder=$5
shift 5
env=()
while [[ $1 != -- ]]; do env+=("$1") && shift; done
shift

mount -t tmpfs tmpfs /mnt
mkdir /mnt/written /mnt/work /mnt/root
mount -t overlay -o "lowerdir=$root,upperdir=/mnt/written,workdir=/mnt/work" overlay /mnt/root
root=/mnt/root
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
[[ $mode == rw ]] || mount -o remount,ro "$root"
exec env -i "${env[@]}" chroot --userspec="$user" "$root" env --chdir="$folder" "$@"
