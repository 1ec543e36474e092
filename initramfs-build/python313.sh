#!/bin/bash
# Prints the folder of an unpruned Debian 13 root with Python 3.13 and what the unit tests need: the packages of
# packages/python313.list and the pinned ones of requirements/dev.txt. Made once, kept in the cache.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=initramfs-build/lib/common.sh
. "$here/lib/common.sh"
# shellcheck source=initramfs-build/lib/mirror.sh
. "$here/lib/mirror.sh"
# shellcheck source=initramfs-build/stages/download.sh
. "$here/stages/download.sh"
# shellcheck source=initramfs-build/stages/python.sh
. "$here/stages/python.sh"

fill_tests() {
    say "python313: packages of requirements/dev.txt"
    local list=$entry/requirements.txt site=$entry/tree/usr/lib/python3/dist-packages
    # Linters run once, on the machine's own Python.
    requirements "$top/requirements/dev.txt" --skip pyfuse3 --skip ruff --skip mypy --skip import-linter \
        --skip grimp --skip librt --skip ast-serialize >"$list"
    # Links to the files of the Debian part where the file system allows it; nobody writes into either.
    cp -al "$python313_raw/tree" "$entry/tree" 2>/dev/null || cp -a "$python313_raw/tree" "$entry/tree"
    install_wheels "$list" "$site"
    cp -a "$pyfuse3_wheel/tree/." "$site/"
    # A link that mawk's script would make. As tools/setup.sh installs the project: editable, g8tools is the folder tools/.
    ln -s mawk "$entry/tree/usr/bin/awk"
    ln -s /g8node/g8node "$site/g8node"
    ln -s /g8node/tools "$site/g8tools"
    mkdir -p "$entry/tree"/{g8node,proc,sys,dev,run,tmp,root,home,mnt,var/tmp,etc}
    local file
    for file in passwd group hosts nsswitch.conf; do
        rm -f "$entry/tree/etc/$file"
        cp "$top/systemd-free-init/etc/$file" "$entry/tree/etc/$file"
    done
    in_root "$entry/tree" /usr/bin/python3 -I -m compileall -q -j 2 /usr/lib/python3.13 /usr/lib/python3/dist-packages \
        >/dev/null 2>&1 || true
}

as_root "$@"
need mmdebstrap unshare chroot flock dpkg-deb
[ -x "$pip" ] || die ".venv is missing: run tools/setup.sh"
open_cache
stage_pyfuse3
cached python313 "$(content_key "$python313_raw/manifest" "$pyfuse3_wheel/tree" "$top/requirements/dev.txt" \
    "$top/systemd-free-init/etc" "$here/python" "$here/stages/python.sh" "$here/python313.sh")" fill_tests
echo "$entry/tree"
