#!/bin/bash
# The peer of boot.ready_vs_systemd: Debian 13 minbase + systemd as an initramfs, without kernel modules.
# systemd-peer.sh MIRROR PACKAGES OUT; stdin: the unit, NUL, the network file, NUL.
set -euo pipefail
mirror=$1 packages=$2 out=$3
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
tree=$work/tree
IFS= read -r -d '' unit
IFS= read -r -d '' network

mmdebstrap --quiet --variant=minbase --include="$packages" trixie "$tree" "$mirror"
rm -rf "$tree"/usr/share/{doc,man,locale,info} "$tree"/var/cache/apt "$tree"/var/lib/apt/lists

printf '%s' "$unit" >"$tree/etc/systemd/system/answer.service"
printf '%s' "$network" >"$tree/etc/systemd/network/80-dhcp.network"
mkdir -p "$tree/etc/systemd/system/graphical.target.wants"
ln -s ../answer.service "$tree/etc/systemd/system/graphical.target.wants/answer.service"
chroot "$tree" systemctl enable --quiet systemd-networkd
ln -sf usr/lib/systemd/systemd "$tree/init"
: >"$tree/etc/machine-id"
# The level of our own image.
(cd "$tree" && find . -print0 | LC_ALL=C sort -z | cpio --quiet --null -o -H newc) | zstd -q -19 -T0 -o "$out.partial"
mv "$out.partial" "$out"
