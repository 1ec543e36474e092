# Stage download: Debian packages, verified by apt, into unpacked trees. Sourced by build.sh.
# Variables of the other files: here, top, cache, entry, out and the *_raw, *_layer that the stages set.
# shellcheck shell=bash disable=SC2034,SC2154

# fetch_tree NAME : sets ${NAME}_raw to a cache folder with tree/ and manifest (package version, sorted).
# Resolved once for a package list; --download resolves again.
fetch_tree() {
    local name=$1 key
    list=$here/packages/$1.list
    key=$(content_key "$list" "$here/stages/download.sh")
    if [ "${refresh:-}" = yes ] && [ -d "$cache/raw.$name-$key" ]; then
        mv -T "$cache/raw.$name-$key" "$(mktemp -d "$cache/tmp.old.XXXXXX")"
    fi
    cached "raw.$name" "$key" "fill_$name"
    declare -g "${name}_raw=$entry"
}

bootstrap() {
    local source log=$entry/log
    source=$(debian_source)
    # The scripts of packages do not run, so the links of the merged /usr are ours to make.
    # shellcheck disable=SC2016 # the hooks expand inside
    mmdebstrap --variant=extract --architectures=amd64 --format=directory \
        --setup-hook='for d in bin sbin lib lib64; do mkdir -p "$1/usr/$d"; ln -s "usr/$d" "$1/$d"; done' \
        "$@" trixie "$entry/tree" "$source" >"$log" 2>&1 ||
        { tail -n 20 "$log" >&2; die "mmdebstrap failed"; }
    rm -f "$log" "$entry/tree/etc/apt/sources.list" "$entry/tree/etc/resolv.conf" "$entry/tree/etc/hostname"
    rm -rf "$entry/tree/etc/apt/sources.list.d"
}

# Which versions came: the names of the archives say it (name_version_arch.deb).
# shellcheck disable=SC2016 # expands inside mmdebstrap
manifest_hook='for deb in "$1"/var/cache/apt/archives/*.deb; do
    dpkg-deb --show --showformat "\${Package} \${Version}\n" "$deb"; done | sort >"$1/manifest"'

fill_root() {
    say "root: Debian packages"
    bootstrap --include="$(words "$list" | paste -sd,)" --extract-hook="$manifest_hook"
    mv "$entry/tree/manifest" "$entry/manifest"
}

fill_python313() {
    say "python313: Debian packages for an unpruned Python 3.13"
    bootstrap --include="$(words "$list" | paste -sd,)" --extract-hook="$manifest_hook"
    mv "$entry/tree/manifest" "$entry/manifest"
}

# Only the kernel's own archive: its dependencies would make an initramfs of their own.
fill_kernel() {
    say "kernel: Debian package"
    local meta
    meta=$(words "$list")
    # shellcheck disable=SC2016 # expands inside mmdebstrap
    bootstrap --include=base-files --extract-hook='
        export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
        cd "$1" && mkdir kernel && cd kernel
        real=$(apt-cache depends --important '"$meta"' | sed -n "s/^ *Depends: \(linux-image-[0-9].*\)/\1/p" | head -n 1)
        test -n "$real"
        apt-get download -qq "$real"
        set -- "$1" *.deb
        dpkg-deb --show --showformat "\${Package} \${Version}\n" "$2" >../manifest
        dpkg-deb --extract "$2" . && rm "$2"'
    mv "$entry/tree/manifest" "$entry/manifest"
    mv "$entry/tree/kernel" "$entry/kernel"
    rm -rf "$entry/tree"
    mv "$entry/kernel" "$entry/tree"
}

stage_download() {
    fetch_tree root
    fetch_tree kernel
    fetch_tree python313
}
