# Stage root: what profiles/root.keep names of the Debian packages, with its libraries. Sourced by build.sh.
# Variables of the other files: here, top, cache, entry, out and the *_raw, *_layer that the stages set.
# shellcheck shell=bash disable=SC2034,SC2154

stage_root() {
    fetch_tree root
    root_layer=
    local key
    key=$(layer_key "$root_raw/manifest" "$here/profiles/root.keep" "$here/profiles/stdlib.prune" \
        "$here/lib/common.sh" "$here/lib/elf.sh" "$here/stages/root.sh")
    cached layer.root "$key" fill_root_layer
    root_layer=$entry
}

fill_root_layer() {
    local raw=$root_raw/tree tree=$entry/tree
    say "root: keep, strip, compile"
    mkdir -p "$tree/usr/bin" "$tree/usr/sbin" "$tree/usr/lib" "$tree/usr/lib64"
    cp -a "$raw"/usr/lib64/. "$tree/usr/lib64/"
    local link
    for link in bin sbin lib lib64; do ln -s "usr/$link" "$tree/$link"; done
    keep "$raw" "$tree"
    prune_stdlib "$tree/usr/lib/python3.13"
    elf_closure "$raw" "$tree"
    strip_elves "$tree"
    applets "$tree"
    compile_tree "$tree" usr/lib/python3.13
    mkdir -p "$tree"/{proc,sys,dev,run,tmp,etc,root,mnt,newroot,var/lib,var/log}
    chmod 1777 "$tree/tmp"
    chmod 700 "$tree/root"
    ln -s ../run "$tree/var/run"
    certificates "$raw" "$tree"
    mkdir "$tree/etc/ld.so.conf.d"
    printf '/usr/lib/x86_64-linux-gnu\n' >"$tree/etc/ld.so.conf"
    ldconfig -X -r "$tree"
    rm -rf "$tree/etc/ld.so.conf.d" "$tree/var/cache"
    pack "$tree" "$entry/layer.cpio.zst"
}

# The bundle that the package's maintainer script would make, where OpenSSL looks for it.
certificates() {
    local raw=$1 tree=$2
    mkdir -p "$tree/etc/ssl/certs" "$tree/usr/lib/ssl"
    cat "$raw"/usr/share/ca-certificates/mozilla/*.crt >"$tree/etc/ssl/certs/ca-certificates.crt"
    ln -sfn /etc/ssl/certs/ca-certificates.crt "$tree/usr/lib/ssl/cert.pem"
}

keep() {
    local raw=$1 tree=$2 pattern path
    while IFS= read -r pattern; do
        # shellcheck disable=SC2086 # a pattern
        for path in "$raw"/$pattern; do
            [ -e "$path" ] || [ -L "$path" ] || die "profiles/root.keep: $pattern is in no package"
            path=${path#"$raw"/}
            mkdir -p "$tree/$(dirname "$path")"
            cp -a "$raw/$path" "$tree/$path"
        done
    done < <(words "$here/profiles/root.keep")
}

prune_stdlib() {
    prune_globs "$1" "$here/profiles/stdlib.prune"
    find "$1" -depth -type d -name __pycache__ -exec rm -rf {} +
}

# prune_globs FOLDER LIST : remove the globs of the list; those without a slash anywhere in the tree's names.
prune_globs() {
    local pattern
    while IFS= read -r pattern; do
        # shellcheck disable=SC2086 # a pattern
        rm -rf "${1:?}"/$pattern
    done < <(words "$2")
}

# compile_tree ROOT FOLDER : module.py becomes module.pyc beside its packages; without column tables, which
# nobody can use without the source. Run by the Python that will read them.
compile_tree() {
    local root=$1 folder=$2
    in_root "$root" /usr/bin/python3.13 -I -S -X no_debug_ranges "-Xpycache_prefix=/tmp/none" -c '
import pathlib, py_compile, sys
mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
sources = sorted(pathlib.Path(sys.argv[1]).rglob("*.py"))
for source in sources:
    py_compile.compile(str(source), str(source) + "c", str(source), doraise=True, invalidation_mode=mode)
for source in sources:
    source.unlink()
' "/$folder"
    rmdir "$root/proc" "$root/dev" "$root/tmp" 2>/dev/null || true
}

# Links for those busybox applets that no real tool of the image shadows; reboot and poweroff are corectl.
applets() {
    local applet
    for applet in $("$1/usr/bin/busybox" --list); do
        case $applet in reboot | poweroff) continue ;; esac
        [ -e "$1/usr/bin/$applet" ] || [ -e "$1/usr/sbin/$applet" ] || [ -L "$1/usr/bin/$applet" ] ||
            [ -L "$1/usr/sbin/$applet" ] || ln -s busybox "$1/usr/bin/$applet"
    done
}
