#!/bin/bash
# Builds the node's boot image: kernel and initramfs, from Debian 13 packages, requirements/node.txt and g8node.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=initramfs-build/lib/common.sh
. "$here/lib/common.sh"
# shellcheck source=initramfs-build/lib/mirror.sh
. "$here/lib/mirror.sh"
# shellcheck source=initramfs-build/lib/elf.sh
. "$here/lib/elf.sh"
for stage in download root kernel python assemble; do
    # shellcheck source=/dev/null # each is checked by itself
    . "$here/stages/$stage.sh"
done

usage() {
    cat <<'TEXT'
usage: build.sh [stage...] [-O FOLDER]

  -a --all         all stages (also when none is named)
  -d --download    fetch the newest Debian packages, even when the cache has some
  -r --root        Debian part of the root
  -k --kernel      kernel and modules
  -p --python      Python dependencies
  -s --assemble    g8node on top, checks, vmlinuz, initramfs.zst and image.json
  -l --clean       empty the cache first
  -O --output DIR  where the artefacts go (default: build/ in the clone, or $G8NODE_BUILD)
  -h --help        this text

Stages take what they need from the cache, or make it: each is kept under the digest of its inputs in
$G8NODE_CACHE, else $XDG_CACHE_HOME/g8node, else ~/.cache/g8node. DEBIAN_MIRROR names a Debian mirror to
use in place of the one in /etc/apt, DEBIAN_KEYRING a keyring. ZSTD_LEVEL sets the compression (19).
TEXT
}

out=${G8NODE_BUILD:-$top/build}
stages=()
refresh=
clean=
arguments=("$@")
while [ $# != 0 ]; do
    case $1 in
        -a | --all) stages+=(root kernel python assemble) ;;
        -d | --download) refresh=yes ;;
        -r | --root) stages+=(root) ;;
        -k | --kernel) stages+=(kernel) ;;
        -p | --python) stages+=(python) ;;
        -s | --assemble) stages+=(assemble) ;;
        -l | --clean) clean=yes ;;
        -O | --output)
            [ $# -ge 2 ] || usage_error "$1 needs a folder"
            out=$2
            shift
            ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) usage_error "unknown option $1" ;;
    esac
    shift
done
case $out in /*) ;; *) out=$PWD/$out ;; esac
as_root "${arguments[@]}" --output "$out"

need mmdebstrap unshare chroot cpio zstd depmod modprobe readelf strip xz flock dpkg-deb ldconfig
[ -x "$top/.venv/bin/pip" ] || die ".venv is missing: run tools/setup.sh"
open_cache
[ -z "$clean" ] || rm -rf --one-file-system "$cache"/*-*
# With nothing named the image is built; --download or --clean alone are just that.
[ ${#stages[@]} != 0 ] || [ -n "$refresh$clean" ] || stages=(assemble)
if [ -n "$refresh" ]; then
    stage_download
    refresh=
fi
for stage in "${stages[@]}"; do "stage_$stage"; done
