# Where Debian packages come from. Sourced by bash.
# shellcheck shell=bash

# Prints the URI of the apt entry that carries this machine's main suite. DEBIAN_MIRROR overrides it.
# A source that cannot be read is an error that names the file.
debian_mirror() {
    if [ -n "${DEBIAN_MIRROR:-}" ]; then
        echo "$DEBIAN_MIRROR"
        return
    fi
    local etc=${APT_ETC:-/etc/apt} release=${OS_RELEASE:-/etc/os-release} suite file uri
    [ -r "$release" ] || die "$release: cannot be read, and DEBIAN_MIRROR is not set"
    suite=$(sed -n 's/^VERSION_CODENAME="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' "$release")
    [ -n "$suite" ] || die "$release: no VERSION_CODENAME, and DEBIAN_MIRROR is not set"
    for file in "$etc/sources.list" "$etc"/sources.list.d/*.list "$etc"/sources.list.d/*.sources; do
        [ -e "$file" ] || [ -L "$file" ] || continue
        # A superuser may read everything, so the mode is not asked but the read tried.
        cat -- "$file" >/dev/null 2>&1 || die "$file: cannot be read"
        case $file in
            *.sources) uri=$(uri_of_deb822 "$suite" <"$file") ;;
            *) uri=$(uri_of_one_line "$suite" <"$file") ;;
        esac
        if [ -n "$uri" ]; then
            echo "$uri"
            return
        fi
    done
    die "$etc: no source carries $suite main; set DEBIAN_MIRROR"
}

# deb [options] URI SUITE COMPONENT...
uri_of_one_line() {
    awk -v suite="$1" '
        found { next }
        $1 == "deb" {
            sub(/#.*/, ""); sub(/\[[^]]*\]/, "")
            if ($3 != suite && $3 != "stable") next
            for (i = 4; i <= NF; i++) if ($i == "main") { print $2; found = 1; next }
        }'
}

# Stanzas of Field: value, continued on lines that begin with white space.
uri_of_deb822() {
    awk -v suite="$1" '
        function has(list, word,   parts, i, n) {
            n = split(list, parts, /[ \t\n]+/)
            for (i = 1; i <= n; i++) if (parts[i] == word) return 1
            return 0
        }
        function stanza(   uris) {
            if (!found && has(field["types"], "deb") && tolower(field["enabled"]) !~ /no|false|0/ &&
                (has(field["suites"], suite) || has(field["suites"], "stable")) && has(field["components"], "main")) {
                split(field["uris"], uris, /[ \t\n]+/)
                print uris[1] != "" ? uris[1] : uris[2]
                found = 1
            }
            delete field
        }
        /^#/ { next }
        /^[ \t]*$/ { stanza(); next }
        /^[ \t]/ { field[name] = field[name] " " $0; next }
        {
            name = tolower($0); sub(/[ \t]*:.*/, "", name)
            value = $0; sub(/^[^:]*:[ \t]*/, "", value)
            field[name] = value
        }
        END { stanza() }'
}

# Debian names its mirrors by method, too (mirror+file:…): what apt reads, mmdebstrap reads, so it passes as is.
debian_source() {
    local keyring=${DEBIAN_KEYRING:-/usr/share/keyrings/debian-archive-keyring.gpg}
    [ -r "$keyring" ] || die "$keyring: cannot be read; install debian-archive-keyring"
    local mirror
    mirror=$(debian_mirror)
    echo "deb [signed-by=$keyring] $mirror trixie main"
}
