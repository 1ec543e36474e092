#!/bin/bash
# Prints the folder of a Debian 13 root with the NBD clients of packages/clients13.list, for the tests. Made once,
# kept in the cache. Its programs run by its own loader: ROOT/lib64/ld-linux-x86-64.so.2 --library-path ….
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=initramfs-build/lib/common.sh
. "$here/lib/common.sh"
# shellcheck source=initramfs-build/lib/mirror.sh
. "$here/lib/mirror.sh"
# shellcheck source=initramfs-build/stages/download.sh
. "$here/stages/download.sh"

fill_clients13() {
    say "clients13: Debian packages for tests of the NBD server" >&2
    bootstrap --include="$(words "$list" | paste -sd,)" --extract-hook="$manifest_hook"
    mv "$entry/tree/manifest" "$entry/manifest"
}

as_root "$@"
need mmdebstrap unshare chroot flock dpkg-deb
open_cache
fetch_tree clients13
# shellcheck disable=SC2154 # fetch_tree sets it
echo "$clients13_raw/tree"
