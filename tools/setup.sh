#!/bin/sh
# Makes a Debian 12 or 13 machine ready: Debian packages, then the Python environment in .venv.
# Run by `make deps`; does nothing that is already done, so every make target can depend on it.
set -eu

top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"

say() { printf '\033[1m== %s\033[0m\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 100; }

sudo=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "run as root, or install sudo"
    sudo=sudo
fi

# One line a role, so that it is clear what may go when a role goes.
build="gcc make pkg-config python3-dev python3-venv libfuse3-dev zstd xz-utils cpio kmod mmdebstrap"
node="libzstd1 redis-server redis-tools crun catatonit fuse3 nftables dnsmasq-base iproute2 busybox-static util-linux procps dmidecode"
disks="btrfs-progs parted hdparm smartmontools"
machines="qemu-system-x86"
tests="shellcheck erofs-utils attr libcap2-bin e2fsprogs curl libnbd-bin python3-libnbd qemu-utils qemu-block-extra fio etcd-server stress-ng"
peers="runc podman netavark squashfuse squashfs-tools nbdkit casync restic"

missing=
for package in $build $node $disks $machines $tests $peers; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    say "Debian packages:$missing"
    # The packages' own services stay off: the node starts its own redis on a unix socket.
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    $sudo apt-get update -qq
    # shellcheck disable=SC2086
    $sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -o DPkg::Lock::Timeout=600 -y -qq --no-install-recommends $missing >build-setup.log 2>&1 ||
        { tail -n 20 build-setup.log >&2; die "apt-get failed; all of it is in build-setup.log"; }
    rm -f build-setup.log
fi

# Always Debian's own Python: the one on PATH may be another, with other properties.
python=/usr/bin/python3
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$python is older than 3.11"

stamp=.venv/.requirements
version=$("$python" -V)
want=$( (cat requirements/dev.txt pyproject.toml g8node/wire/*.[ch] g8node/linux/*.[ch] && echo "$version $top") | sha256sum | cut -c1-32)
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$want" ]; then
    say "Python environment (.venv, $version)"
    [ "$(.venv/bin/python -V 2>/dev/null || true)" = "$version" ] || { rm -rf .venv && "$python" -m venv .venv; }
    .venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
    .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
    echo "$want" >"$stamp"
fi
