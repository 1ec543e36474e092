# What ELF files need. Sourced by bash.
# shellcheck shell=bash

lib=usr/lib/x86_64-linux-gnu

# The ELF files below a folder, one a line: programs and shared objects.
elves() {
    find "$1" -type f \( -perm -u+x -o -name '*.so' -o -name '*.so.*' \) -print | while IFS= read -r file; do
        [ "$(head -c 4 "$file" | tr -d '\0')" != $'\177ELF' ] || echo "$file"
    done
}

# needed FILE... : the names of the libraries that the files need.
needed() {
    [ $# = 0 ] || readelf --dynamic --wide "$@" 2>/dev/null |
        sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort -u
}

# elf_closure RAW TREE : copy from RAW every library that an ELF file of TREE needs, until none is missing.
elf_closure() {
    local raw=$1 tree=$2 name copied=yes
    local -a files
    while [ $copied = yes ]; do
        copied=no
        mapfile -t files < <(elves "$tree")
        for name in $(needed "${files[@]}"); do
            if [ -e "$tree/$lib/$name" ] || [ -e "$tree/usr/lib64/$name" ]; then continue; fi
            [ -e "$raw/$lib/$name" ] || die "library $name is needed but in no package"
            cp_library "$raw" "$tree" "$name"
            copied=yes
        done
    done
    # The loader itself, which usr/lib64 points to.
    [ -e "$tree/$lib/ld-linux-x86-64.so.2" ] || cp_library "$raw" "$tree" ld-linux-x86-64.so.2
}

cp_library() {
    local target
    mkdir -p "$2/$lib"
    cp -a "$1/$lib/$3" "$2/$lib/$3"
    if [ -L "$1/$lib/$3" ]; then
        target=$(readlink "$1/$lib/$3")
        case $target in */*) die "$3 links outside its folder: $target" ;; esac
        [ -e "$2/$lib/$target" ] || cp -a "$1/$lib/$target" "$2/$lib/$target"
    fi
}

# Debian's files are stripped already; wheels are not.
strip_elves() {
    local -a files
    mapfile -t files < <(elves "$1")
    [ ${#files[@]} = 0 ] || strip --strip-unneeded --preserve-dates "${files[@]}" 2>/dev/null ||
        die "strip failed below $1"
}

# check_elves ROOT : every library that an ELF file of the image needs is in the image.
check_elves() {
    local root=$1 name file missing=
    local -a files
    mapfile -t files < <(elves "$root")
    for name in $(needed "${files[@]}"); do
        [ -e "$root/$lib/$name" ] || [ -e "$root/usr/lib64/$name" ] || missing="$missing $name"
    done
    [ -z "$missing" ] && return
    for file in "${files[@]}"; do
        for name in $missing; do
            needed "$file" | grep -qx -- "$name" && printf '%s needs %s\n' "${file#"$root"}" "$name" >&2
        done
    done
    die "libraries missing in the image:$missing"
}
