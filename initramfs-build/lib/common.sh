# Shared by build.sh, python313.sh and unit-on-313.sh: messages, root, the cache. Sourced by bash; needs $here.
# The callers read the variables set here.
# shellcheck shell=bash disable=SC2034,SC2154

top=$(cd "$here/.." && pwd)
# Unpacked files, pyc files and archives carry this time, so that two builds give the same bytes.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1735689600}
export LC_ALL=C TZ=UTC
umask 022

say() { printf '\033[1m-- %s\033[0m\n' "$*" >&2; }
die() { printf 'initramfs-build: %s\n' "$*" >&2; exit 111; }
usage_error() { printf 'initramfs-build: %s (-h lists the options)\n' "$*" >&2; exit 100; }

# Unpacking keeps owners and chroot needs root: run the script again through sudo, with the caller's cache.
as_root() {
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || die "needs root: run it as root, or install sudo"
        exec sudo --preserve-env=DEBIAN_MIRROR,DEBIAN_KEYRING,SOURCE_DATE_EPOCH \
            --preserve-env=PIP_CERT,PIP_CONFIG_FILE,PIP_EXTRA_INDEX_URL,PIP_FIND_LINKS,PIP_INDEX_URL,PIP_PROXY \
            --preserve-env=http_proxy,https_proxy,no_proxy \
            env G8NODE_CACHE="$(cache_base)" HOME="$HOME" "$0" "$@"
    fi
}

cache_base() { echo "${G8NODE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/g8node}"; }

# What root made belongs to the user who called sudo, where he is meant to read it.
hand_over() {
    [ -z "${SUDO_UID:-}" ] || chown -h "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$@"
}

need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || die "$tool is missing: run tools/setup.sh"
    done
}

open_cache() {
    cache=$(cache_base)/image
    mkdir -p "$cache"
    hand_over "$(cache_base)" "$cache"
    exec 9>"$cache/lock"
    flock -n 9 || { say "another build holds $cache/lock, waiting"; flock 9; }
    # Left by builds that were killed: we hold the lock, so nobody uses them.
    rm -rf --one-file-system "$cache"/tmp.*
    find "$cache" -mindepth 1 -maxdepth 1 -name '*-*' -mtime +30 -exec rm -rf --one-file-system {} +
}

# content_key FILE... : names and contents of the files (folders: of all in them), and $extra, as 16 hex digits.
content_key() {
    local given path
    {
        printf '%s\n' "${extra:-}" "$SOURCE_DATE_EPOCH"
        for given in "$@"; do
            [ -e "$given" ] || die "$given is missing"
            # Names below what was given: the key is the same wherever the clone and the cache are.
            find "$given" -type f -not -path '*/__pycache__/*' -print0 | sort -z |
                while IFS= read -r -d '' path; do
                    printf '%s%s ' "$(basename "$given")" "${path#"$given"}"
                    sha256sum <"$path"
                done
        done
    } | sha256sum | cut -c1-16
}

# cached NAME KEY FUNCTION : sets $entry to the cache folder NAME-KEY; when it is new, FUNCTION fills $entry,
# and only a filled one gets its name.
cached() {
    entry=$cache/$1-$2
    if [ -d "$entry" ]; then
        touch "$entry"
        return
    fi
    local final=$entry
    entry=$(mktemp -d "$cache/tmp.$1.XXXXXX")
    chmod 755 "$entry"
    "$3"
    mv -T "$entry" "$final"
    entry=$final
}

# The lines of a list without comments and reasons: first words only.
words() { sed -e 's/#.*//' -e 's/^[[:space:]]*//' "$1" | awk 'NF { print $1 }'; }

# in_root ROOT COMMAND... : chroot with /proc, /dev/null and friends, which vanish with the mount namespace.
in_root() {
    local root=$1
    shift
    mkdir -p "$root/proc" "$root/dev" "$root/tmp"
    # shellcheck disable=SC2016 # expands inside
    unshare --mount --propagation private -- sh -euc '
        root=$1; shift
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        mount -t tmpfs tmpfs "$root/tmp"
        exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin HOME=/tmp LC_ALL=C.UTF-8 PYTHONHASHSEED=0 "$@"
    ' sh "$root" "$@"
}

# As content_key, for what `pack` makes.
layer_key() { extra=${ZSTD_LEVEL:-19} content_key "$@"; }

# pack TREE FILE : the same tree gives the same bytes: sorted names, one time, one owner.
pack() {
    find "$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    (cd "$1" && find . -print0 | sort -z |
        cpio --null --create --format=newc --reproducible --owner=0:0 --quiet) |
        zstd -q -T0 "-${ZSTD_LEVEL:-19}" -o "$2"
}

size_of() { du -s --apparent-size --block-size=1 "$1" | cut -f1; }
