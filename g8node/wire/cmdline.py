"""The kernel command line (pure): spec core0-protocol 1.3."""

import shlex


def parse(text: str) -> list[tuple[str, str]]:
    """(key, value) of every word in order; a bare word has the value "". Keys may repeat.

    Values may be quoted as a shell would; a quote that is never closed ends at the end of the line,
    because a wrong character must not stop a boot.
    """
    text = text.replace("\0", " ").strip()
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.replace('"', "").replace("'", "").split()
    pairs = []
    for word in words:
        key, _, value = word.partition("=")
        pairs.append((key, value))
    return pairs


def last(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Each key with its last value, as `{key}` substitution wants it."""
    return dict(pairs)


def every(pairs: list[tuple[str, str]], key: str) -> list[str]:
    """All values of a key that may repeat, in order."""
    return [value for name, value in pairs if name == key]
