# Stage assemble: init, configuration and g8node on top of the layers, the checks, the two artefacts.
# Sourced by build.sh. The initramfs is the layers' archives one after the other: the kernel unpacks each, so a
# change of g8node compresses a few hundred kilobytes and not the whole image.
# Variables of the other files: here, top, cache, entry, out, kernels and the *_raw, *_layer that the stages set.
# shellcheck shell=bash disable=SC2034,SC2154

stage_assemble() {
    stage_root
    stage_python
    stage_kernels
    stage_kernel
    work=$(mktemp -d "$cache/tmp.assemble.XXXXXX")
    fill_node_layer "$work/node"
    merge "$work/image" "$root_layer/tree" "$kernel_layer/tree" "$python_layer/tree" "$work/node"
    check_image "$work/image"
    pack "$work/node" "$work/node.cpio.zst"
    publish
    rm -rf "$work"
}

fill_node_layer() {
    local tree=$1 init=$top/systemd-free-init site
    site=$tree/usr/lib/python3/dist-packages
    mkdir -p "$site" "$tree/etc/udhcpc" "$tree/usr/share/udhcpc"
    install -m 755 "$init/init" "$tree/init"
    install -m 755 "$init/udhcpc.script" "$tree/usr/share/udhcpc/default.script"
    # Where Debian's busybox looks when udhcpc is called without -s.
    ln -s /usr/share/udhcpc/default.script "$tree/etc/udhcpc/default.script"
    mkdir -p "$tree/usr/bin" "$tree/usr/sbin"
    install -m 755 "$init/corectl" "$tree/usr/bin/corectl"
    ln -s ../bin/corectl "$tree/usr/sbin/reboot"
    ln -s ../bin/corectl "$tree/usr/sbin/poweroff"
    install -m 644 "$init/g8node.toml" "$tree/etc/g8node.toml"
    revision >"$tree/etc/g8node-release"
    local file
    for file in passwd group hosts nsswitch.conf; do install -m 644 "$init/etc/$file" "$tree/etc/$file"; done
    if [ -d "$init/startup" ]; then
        mkdir -p "$tree/etc/g8node/startup"
        install -m 644 "$init"/startup/*.toml "$tree/etc/g8node/startup/"
    fi
    [ ! -e "$init/network.toml" ] || install -m 644 "$init/network.toml" "$tree/etc/g8node/network.toml"
    (cd "$top" && find g8node -type f -name '*.py' -print0 | sort -z |
        cpio --null --pass-through --make-directories --quiet "$site")
    cp "$kernels"/_{kernels,flist}.abi3.so "$site/g8node/wire/"
    cp "$kernels"/_{batch,spawn,userns}.abi3.so "$site/g8node/linux/"
    find "$site" -type d -exec chmod 755 {} + -o -type f -exec chmod 644 {} +
    # Sources stay for readable tracebacks; their pyc files are made here, since the root is read by its first boot.
    merge "$work/compile" "$root_layer/tree" "$tree"
    in_root "$work/compile" /usr/bin/python3 -I -m compileall -q -j 1 --invalidation-mode unchecked-hash \
        /usr/lib/python3/dist-packages/g8node || die "g8node does not compile under Python 3.13"
    rm -rf "$site"
    mv "$work/compile/usr/lib/python3/dist-packages" "$site"
    rm -rf "$work/compile"
}

# What core.ping and info.version tell: the commit, and whether the sources differ from it.
revision() {
    # Root must not rewrite the index of the user's clone.
    local git=(env GIT_OPTIONAL_LOCKS=0 git -c safe.directory="$top" -C "$top") commit dirty=false
    commit=$("${git[@]}" rev-parse --short=10 HEAD 2>/dev/null) || commit=unknown
    [ "$commit" = unknown ] || "${git[@]}" diff --quiet HEAD -- g8node systemd-free-init || dirty=true
    printf 'revision = "%s"\ndirty = %s\n' "$commit" "$dirty"
}

# merge INTO TREE... : one tree made of hard links (copies, where the cache lies on another file system).
merge() {
    local into=$1 tree
    shift
    mkdir -p "$into"
    for tree in "$@"; do
        cp -al "$tree/." "$into/" 2>/dev/null || cp -a "$tree/." "$into/"
    done
}

check_image() {
    local root=$1
    check_elves "$root"
    check_modules "$root"
    # As PID 1 would: same flags, pruned tree. Every module of g8node must import.
    in_root "$root" /usr/bin/python3 -I -c '
import importlib, pkgutil, sys
import aiohttp, cramjam, cryptography.hazmat.primitives.ciphers.aead, msgspec, pyfuse3, pyfuse3.asyncio
import pyroute2, redis.asyncio, sqlite3, ssl, structlog, tomllib, uvloop
import g8node
from g8node.flist import compiled
from g8node.wire import kernels
pyfuse3.asyncio.enable()
failed = [] if kernels.COMPILED and compiled.COMPILED else ["g8node.wire._kernels or _flist: not compiled"]
for module in pkgutil.walk_packages(g8node.__path__, "g8node.", onerror=failed.append):
    if module.name.endswith(".__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        failed.append(f"{module.name}: {error}")
sys.exit("\n".join(["does not import in the image:", *failed]) if failed else 0)
' || die "the pruned image lacks what g8node imports (profiles/*.prune)"
}

# Every module that a module depends on is in the image.
check_modules() {
    local root=$1 release line
    release=$(cat "$kernel_layer/release")
    find "$root/usr/lib/modules/$release" -name '*.ko*' | while IFS= read -r line; do
        line=$(basename "$line")
        modprobe --dirname "$root" --set-version "$release" --show-depends --ignore-install "${line%%.ko*}" \
            >/dev/null || die "module ${line%%.ko*}: a dependency is missing"
    done || exit 111
}

publish() {
    local part
    mkdir -p "$out"
    hand_over "$out"
    : >"$work/initramfs.zst"
    for part in "$root_layer/layer.cpio.zst" "$kernel_layer/layer.cpio.zst" "$python_layer/layer.cpio.zst" \
        "$work/node.cpio.zst"; do
        cat "$part" >>"$work/initramfs.zst"
        # The kernel looks for the next archive on a multiple of four.
        truncate -s %4 "$work/initramfs.zst"
    done
    write_json >"$work/image.json"
    # vmlinuz first: whoever sees the new image.json sees all of its build.
    local file
    for file in "$kernel_layer/vmlinuz" "$work/initramfs.zst" "$work/image.json"; do
        cp "$file" "$out/.$(basename "$file").new"
        hand_over "$out/.$(basename "$file").new"
        mv -T "$out/.$(basename "$file").new" "$out/$(basename "$file")"
    done
    table
}

bytes() { stat -c %s "$1"; }

# component unpacked packed
components() {
    printf 'kernel %s %s\n' "$(bytes "$kernel_layer/vmlinuz")" "$(bytes "$kernel_layer/vmlinuz")"
    printf 'root %s %s\n' "$(size_of "$root_layer/tree")" "$(bytes "$root_layer/layer.cpio.zst")"
    printf 'modules %s %s\n' "$(size_of "$kernel_layer/tree")" "$(bytes "$kernel_layer/layer.cpio.zst")"
    printf 'python %s %s\n' "$(size_of "$python_layer/tree")" "$(bytes "$python_layer/layer.cpio.zst")"
    printf 'g8node %s %s\n' "$(size_of "$work/node")" "$(bytes "$work/node.cpio.zst")"
}

# {"name": "version", …} of lines "name version".
versions() {
    awk '{ printf "%s\"%s\": \"%s\"", n++ ? ", " : "", $1, $2 }' "$@"
}

write_json() {
    printf '{\n  "key": "%s",\n  "kernel": "%s",\n' \
        "$(cat "$kernel_layer/vmlinuz" "$work/initramfs.zst" | sha256sum | cut -c1-32)" \
        "$(cat "$kernel_layer/release")"
    printf '  "vmlinuz_bytes": %s,\n  "initramfs_bytes": %s,\n  "components": {\n' \
        "$(bytes "$kernel_layer/vmlinuz")" "$(bytes "$work/initramfs.zst")"
    components | awk '{ printf "%s    \"%s\": {\"unpacked_bytes\": %s, \"packed_bytes\": %s}", n++ ? ",\n" : "", $1, $2, $3 }'
    printf '\n  },\n  "packages": {%s},\n  "python": {%s}\n}\n' \
        "$(versions "$root_raw/manifest" "$kernel_raw/manifest")" "$(versions "$python_layer/manifest")"
}

table() {
    {
        components
        printf 'total %s %s\n' "$(components | awk '{ s += $2 } END { print s }')" \
            "$(($(bytes "$kernel_layer/vmlinuz") + $(bytes "$work/initramfs.zst")))"
    } | awk 'BEGIN { printf "%-10s %12s %12s\n", "component", "unpacked MB", "packed MB" }
        { printf "%-10s %12.2f %12.2f\n", $1, $2 / 1e6, $3 / 1e6 }'
}
