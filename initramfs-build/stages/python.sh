# Stage python: the image's Python dependencies, exactly requirements/node.txt. Sourced by build.sh.
# Variables of the other files: here, top, cache, entry, out and the *_raw, *_layer that the stages set.
# shellcheck shell=bash disable=SC2034,SC2154

pip=$top/.venv/bin/pip
# glibc of trixie is 2.41: every older manylinux fits.
glibc_minor=41

# What pip is told to install for a Python that is not its own.
pip_target() {
    local minor
    printf '%s\n' --quiet --no-deps --require-hashes --no-compile --only-binary=:all: --python-version=3.13 \
        --implementation=cp --abi=cp313 --abi=abi3 --abi=none
    for ((minor = glibc_minor; minor >= 5; minor--)); do
        printf '%s\n' "--platform=manylinux_2_${minor}_x86_64"
    done
    printf '%s\n' --platform=manylinux2014_x86_64 --platform=manylinux1_x86_64 --platform=linux_x86_64
}

# requirements FILE [OPTION...] : what of it applies to Python 3.13.
requirements() {
    "$top/.venv/bin/python" -I "$here/python/requirements313.py" "$@" || die "$1 could not be read"
}

install_wheels() {
    local list=$1 into=$2
    local -a target
    mapfile -t target < <(pip_target)
    "$pip" install "${target[@]}" --target "$into" -r "$list" 2>&1 >/dev/null |
        grep -vE '^WARNING: (Location|Target)|notice' >&2 || true
    [ "${PIPESTATUS[0]}" = 0 ] || die "pip could not install the packages of $list for Python 3.13"
}

stage_python() {
    stage_root
    stage_pyfuse3
    local key
    key=$(layer_key "$top/requirements/node.txt" "$pyfuse3_wheel/tree" "$root_raw/manifest" \
        "$here/profiles/site.prune" "$here/python" "$here/lib" "$here/stages/python.sh" "$here/stages/root.sh")
    cached layer.python "$key" fill_python_layer
    python_layer=$entry
}

# pyfuse3 has no wheel for 3.13. Its source carries the C that Cython made, so the compiler is all it takes.
stage_pyfuse3() {
    fetch_tree python313
    local key
    requirements "$top/requirements/node.txt" --only pyfuse3 >"$cache/tmp.pyfuse3.txt"
    key=$(extra=$(cat "$cache/tmp.pyfuse3.txt") content_key "$python313_raw/manifest" "$here/python" \
        "$here/stages/python.sh")
    cached wheel.pyfuse3 "$key" fill_pyfuse3
    pyfuse3_wheel=$entry
}

fill_pyfuse3() {
    say "python: compile pyfuse3"
    local list=$cache/tmp.pyfuse3.txt source=$python313_raw/tree/build/pyfuse3 version site=$entry/tree
    "$top/.venv/bin/python" -I "$here/python/fetch_sdist.py" "$list" pyfuse3 "$entry" 2>/dev/null ||
        "$top/.venv/bin/python" -I "$here/python/fetch_sdist.py" "$list" pyfuse3 "$entry" >&2
    rm -rf "$source"
    mkdir -p "$source" "$site/pyfuse3"
    tar -xzf "$entry"/pyfuse3-*.tar.gz --strip-components=1 --no-same-owner -C "$source"
    rm "$entry"/pyfuse3-*.tar.gz
    # shellcheck disable=SC2016 # expands inside
    in_root "$python313_raw/tree" /bin/sh -euc '
        cd /build/pyfuse3
        suffix=$(python3 -c "import sysconfig; print(sysconfig.get_config_var(\"EXT_SUFFIX\"))")
        gcc -shared -fPIC -O2 -DNDEBUG -DFUSE_USE_VERSION=32 -w -ffile-prefix-map=/build/pyfuse3=. -Wl,-z,now \
            -IInclude -Isrc/pyfuse3 $(python3-config --includes) $(pkg-config fuse3 --cflags) \
            -o "src/pyfuse3/__init__$suffix" src/pyfuse3/__init__.c $(pkg-config fuse3 --libs) -lpthread -lrt
        strip --strip-unneeded "src/pyfuse3/__init__$suffix"' || die "pyfuse3 could not be compiled"
    cp "$source"/src/pyfuse3/*.py "$source"/src/pyfuse3/*.so "$source"/src/pyfuse3/*.pyi "$site/pyfuse3/"
    touch "$site/pyfuse3/py.typed"
    version=$(sed -n 's/^Version: //p' "$source/PKG-INFO")
    mkdir "$site/pyfuse3-$version.dist-info"
    cp "$source/PKG-INFO" "$site/pyfuse3-$version.dist-info/METADATA"
    rm -rf "$source"
}

# What g8node has in C, for the image's Python.
stage_kernels() {
    fetch_tree python313
    local key
    key=$(content_key "$python313_raw/manifest" "$top"/g8node/{wire,linux}/*.[ch] "$here/stages/python.sh")
    cached kernels "$key" fill_kernels
    kernels=$entry
}

fill_kernels() {
    say "python: compile what g8node has in C"
    local source=$python313_raw/tree/build/kernels
    rm -rf "$source"
    mkdir -p "$source"
    cp "$top"/g8node/{wire,linux}/*.[ch] "$source/"
    # shellcheck disable=SC2016 # expands inside
    in_root "$python313_raw/tree" /bin/sh -euc '
        cd /build/kernels
        for each in _kernels _flist _batch _spawn _userns; do
            gcc -shared -fPIC -O3 -DNDEBUG -Wall -ffile-prefix-map=/build/kernels=. -Wl,-z,now \
                $(python3-config --includes) -o $each.abi3.so $each.c
            strip --strip-unneeded $each.abi3.so
        done' || die "g8node's C sources could not be compiled"
    cp "$source"/*.abi3.so "$entry/"
    rm -rf "$source"
}

# pyfuse3 asks importlib.metadata for its version when it is imported, which imports email, zipfile and csv:
# half a second of boot time under TCG. The image has the answer in the file.
version_in_file() {
    local site=$1 version
    version=$(sed -n 's/^Version: //p' "$site"/pyfuse3-*.dist-info/METADATA)
    sed -i -e '/^from importlib.metadata import/d' \
        -e "s/^    __version__ = package_version('pyfuse3')\$/    __version__ = '$version'/" \
        -e 's/^except PackageNotFoundError:$/except ValueError:/' "$site/pyfuse3/_pyfuse3.py"
    grep -q "__version__ = '$version'" "$site/pyfuse3/_pyfuse3.py" || die "pyfuse3/_pyfuse3.py is not as expected"
}

fill_python_layer() {
    local site=$entry/tree/usr/lib/python3/dist-packages list=$entry/requirements.txt
    need "$pip"
    say "python: wheels of requirements/node.txt for Python 3.13"
    mkdir -p "$site"
    # trio and what only it needs: python/trio.py says why.
    requirements "$top/requirements/node.txt" --skip pyfuse3 --skip trio --skip outcome --skip sniffio \
        --skip sortedcontainers --skip pycparser >"$list"
    install_wheels "$list" "$site"
    cp -a "$pyfuse3_wheel/tree/." "$site/"
    version_in_file "$site"
    cp "$here/python/trio.py" "$site/"
    find "$site" -maxdepth 1 -name '*.dist-info' -printf '%f\n' |
        sed -e 's/\.dist-info$//' -e 's/-/ /' | sort >"$entry/manifest"
    prune_site "$site"
    chmod -R u+rwX,go+rX,go-w "$site"
    strip_elves "$site"
    size_table "$site" >"$entry/sizes"
    # Compiling needs the interpreter: the tree is put on a copy of the root made of links.
    cp -al "$root_layer/tree" "$entry/root"
    mkdir -p "$entry/root/usr/lib/python3"
    mv "$site" "$entry/root/usr/lib/python3/"
    compile_tree "$entry/root" usr/lib/python3/dist-packages
    mv "$entry/root/usr/lib/python3/dist-packages" "$site"
    rm -rf "$entry/root"
    pack "$entry/tree" "$entry/layer.cpio.zst"
}

# Patterns without a slash go wherever they are, the others are below the folder.
prune_site() {
    local pattern
    while IFS= read -r pattern; do
        case $pattern in
            */*) find "$1" -depth -path "$1/$pattern" -exec rm -rf {} + ;;
            *) find "$1" -depth -name "$pattern" -exec rm -rf {} + ;;
        esac
    done < <(words "$here/profiles/site.prune")
}

# Bytes of each package, before the docs of none matter any more: name bytes.
size_table() {
    local path
    for path in "$1"/*; do
        case $path in *.dist-info) continue ;; esac
        printf '%s %s\n' "$(basename "$path")" "$(size_of "$path")"
    done | sort -k2,2nr
}
