#!/bin/bash
# Runs the unit tests under the image's Python version: unit-on-313.sh [pytest arguments]; default: tests/unit.
# catatonit is process 1 of the namespace, so that orphans of the tests are not pytest's to reap.
# The repository is bound at /g8node of the root that python313.sh makes; all mounts end with the command.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=initramfs-build/lib/common.sh
. "$here/lib/common.sh"

as_root "$@"
root=$("$here/python313.sh")
[ $# != 0 ] || set -- tests/unit
# shellcheck disable=SC2016 # expands inside
exec unshare --mount --propagation private --pid --fork --kill-child -- /bin/sh -euc '
    root=$1 top=$2
    shift 2
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs -o mode=1777 tmp "$root/tmp"
    mount -t tmpfs run "$root/run"
    mount -t tmpfs -o mode=700 home "$root/root"
    mount --rbind "$top" "$root/g8node"
    exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin HOME=/root LANG=C.UTF-8 TERM="${TERM:-dumb}" \
        PYTHONDONTWRITEBYTECODE=1 /usr/bin/catatonit -- /bin/sh -euc "cd /g8node; exec python3 -m pytest \"\$@\"" sh "$@"
' sh "$root" "$top" "$@"
