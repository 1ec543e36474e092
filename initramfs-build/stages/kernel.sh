# Stage kernel: vmlinuz, and the modules of kernel/modules.list with what they depend on. Sourced by build.sh.
# Variables of the other files: here, top, cache, entry, out and the *_raw, *_layer that the stages set.
# shellcheck shell=bash disable=SC2034,SC2154

stage_kernel() {
    fetch_tree kernel
    local key
    key=$(layer_key "$kernel_raw/manifest" "$here/kernel" "$here/lib/common.sh" "$here/stages/kernel.sh")
    cached layer.kernel "$key" fill_kernel_layer
    kernel_layer=$entry
}

fill_kernel_layer() {
    say "kernel: modules"
    local raw=$kernel_raw/tree/usr/lib/modules release from to now name path
    release=$(ls "$raw")
    case $release in *[[:space:]]*) die "the kernel package holds several kernels: $release" ;; esac
    from=$raw/$release
    to=$entry/tree/usr/lib/modules/$release
    mkdir -p "$to"
    echo "$release" >"$entry/release"
    cp "$kernel_raw/tree/boot/vmlinuz-$release" "$entry/vmlinuz"
    touch -d "@$SOURCE_DATE_EPOCH" "$entry/vmlinuz"
    cp "$from/modules.builtin" "$from/modules.builtin.modinfo" "$from/modules.order" "$to/"
    # The package ships no modules.dep; a first depmod over all of it says what needs what.
    mkdir -p "$entry/all/usr/lib"
    ln -s usr/lib "$entry/all/lib"
    ln -s "$raw" "$entry/all/usr/lib/modules"
    mkdir "$entry/index"
    depmod -b "$entry/all" -o "$entry/index" "$release" 2>/dev/null || depmod_in_place "$from" "$release"
    while read -r name now; do
        take_module "$name" "${now:-}"
    done < <(sed -e 's/#.*//' "$here/kernel/modules.list" | awk 'NF { print $1, $2 }')
    ln -s usr/lib "$entry/tree/lib"
    depmod -b "$entry/tree" "$release"
    rm "$entry/tree/lib"
    # modprobe reads the .bin files.
    for path in modules.dep modules.alias modules.symbols modules.builtin modules.builtin.modinfo modules.order \
        modules.devname modules.builtin.alias.bin modules.weakdep; do
        rm -f "$to/$path"
    done
    rm -rf "$entry/all" "$entry/index"
    pack "$entry/tree" "$entry/layer.cpio.zst"
}

# kmod of Debian 12 has no --outdir in all builds: index a copy made of links instead.
depmod_in_place() {
    rm -rf "$entry/all/usr/lib/modules"
    mkdir -p "$entry/all/usr/lib/modules"
    cp -al "$1" "$entry/all/usr/lib/modules/$2" 2>/dev/null || cp -a "$1" "$entry/all/usr/lib/modules/$2"
    depmod -b "$entry/all" "$2"
    mkdir -p "$entry/index/lib/modules"
    cp -a "$entry/all/usr/lib/modules/$2" "$entry/index/lib/modules/"
}

# take_module NAME [now] : copy the module and its dependencies; with "now" all of them uncompressed.
take_module() {
    local name=$1 now=$2 line dep file
    line=$(grep -hE "(^|/)$(printf '%s' "$name" | sed 's/[-_]/[-_]/g')\.ko[.a-z]*:" \
        "$entry"/index/lib/modules/*/modules.dep | head -n 1) || true
    if [ -z "$line" ]; then
        grep -qE "/$(printf '%s' "$name" | sed 's/[-_]/[-_]/g')\.ko" "$from/modules.builtin" && return
        die "kernel/modules.list: the kernel has no module $name"
    fi
    for dep in ${line/:/ }; do
        file=$to/$dep
        mkdir -p "$(dirname "$file")"
        if [ "$now" = now ]; then
            rm -f "$file"
            xz -dc "$from/$dep" >"${file%.xz}"
        elif [ ! -e "$file" ] && [ ! -e "${file%.xz}" ]; then
            cp "$from/$dep" "$file"
        fi
    done
}
