"""Which store has which chunk (pure): `router.yaml`, and stores given as `[xx-xx=]url`.

    pools:  {<pool>: {<range>: <url>, ...}, ...}
    lookup: [<pool>, ...]     asked in this order
    cache:  [<pool>, ...]     optional; filled with what another pool had

A range is `hex` (ids that begin so) or `hex:hex` (both ends in it and equally long; the head of an id is
compared); a digit too few is a 0 at the end. In `[xx-xx=]url` it is of the id's first byte. The file comes
from strangers: every scalar is text (`10:20` is no number to us), YAML's anchors and tags are refused.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

from g8node.errors import InvalidArgument
from g8node.wire import yamltext

ROUTER_BYTES_MAX: Final = 64 << 10
POOLS_MAX: Final = 64
RULES_MAX: Final = 1024
_RANGE: Final = re.compile(r"([0-9a-fA-F]{1,128})(?::([0-9a-fA-F]{1,128}))?")
_USER: Final = re.compile(r"//[^/?]*@")
_SHARD: Final = re.compile(r"(?:([0-9a-f]{2})-([0-9a-f]{2})=)?(.+)", re.DOTALL)


class Range(NamedTuple):
    """Ids whose first bytes lie between `first` and `last`, which are equally long and belong to it."""

    first: bytes
    last: bytes

    def __contains__(self, id: object) -> bool:
        head = id[: len(self.first)] if isinstance(id, bytes | bytearray) else b""
        return len(head) == len(self.first) and self.first <= head <= self.last

    def __str__(self) -> str:
        return self.first.hex() if self.first == self.last else f"{self.first.hex()}:{self.last.hex()}"


EVERY: Final = Range(b"", b"")
"""Every id."""


class Rule(NamedTuple):
    """One store of a pool."""

    range: Range
    url: str


@dataclass(frozen=True, slots=True)
class Router:
    """Pools by name, those to ask in order, those to fill. Every name in `lookup` and `cache` is a pool."""

    pools: Mapping[str, tuple[Rule, ...]]
    lookup: tuple[str, ...]
    cache: tuple[str, ...] = ()


def parse_range(text: str) -> Range:
    """`hex` or `hex:hex`. InvalidArgument says what is wrong."""
    match = _RANGE.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"range {text[:80]!r}: expected hex or hex:hex")
    first = _bytes(match[1])
    last = _bytes(match[2]) if match[2] else first
    if len(first) != len(last):
        raise InvalidArgument(f"range {text[:80]!r}: its ends differ in length")
    if first > last:
        raise InvalidArgument(f"range {text[:80]!r}: its first end is above its last")
    return Range(first, last)


def _bytes(digits: str) -> bytes:
    return bytes.fromhex(digits + "0" * (len(digits) % 2))


def parse_store(text: str) -> Rule:
    """`[xx-xx=]url`: the url, and the range of first bytes that it holds."""
    match = _SHARD.fullmatch(text)
    if match is None:
        raise InvalidArgument("store is empty, expected [xx-xx=]url")
    first, last, url = match.groups()
    if first is None:
        return Rule(EVERY, checked_url(url))
    if first > last:
        raise InvalidArgument(f"store {without_credentials(text)!r}: shard {first}-{last} is empty")
    return Rule(Range(bytes.fromhex(first), bytes.fromhex(last)), checked_url(url))


def format_store(rule: Rule) -> str:
    """The reverse. InvalidArgument for a range of more than one byte."""
    first, last = rule.range
    if not first:
        return rule.url
    if len(first) != 1:
        raise InvalidArgument(f"range {rule.range}: [xx-xx=]url can hold ranges of the first byte only")
    return f"{first.hex()}-{last.hex()}={rule.url}"


def checked_url(url: str) -> str:
    """The URL itself when it is one with a scheme. What schemes there are is the stores' business."""
    try:
        parts = urlsplit(url)
        _ = "," in parts.netloc or parts.port  # a cluster has several hosts
    except ValueError:  # whose text may quote the password
        hint = "what means something in a URL is written as %XX in a password: / as %2F"
        raise InvalidArgument(f"store {public_name(url)!r} is no URL", hint=hint) from None
    if not parts.scheme or not (parts.netloc or parts.path) or not url.isprintable() or len(url) > 4096:
        raise InvalidArgument(f"store {public_name(url)!r} is no URL")
    return url


def public_name(url: str) -> str:
    """What messages call a store whose URL may be no good: without options and all up to the last @.

    The slash of a password that was not encoded must not save the rest of it.
    """
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    return (scheme + separator + rest.rpartition("@")[2].partition("?")[0])[:200]


def without_credentials(url: str) -> str:
    """The URL without user, password and query (tokens stand there): what may be shown and stored."""
    kept, _, query = _USER.sub("//", url.partition("#")[0]).partition("?")
    words = "&".join(word for word in query.split("&") if word.startswith("region="))
    return f"{kept}?{words}" if words else kept


def has_credentials(url: str) -> bool:
    """Whether `without_credentials` would take something away."""
    return without_credentials(url) != url


def stripped(router: Router) -> Router:
    """The router as it may be given away inside of an flist."""
    pools = {
        name: tuple(Rule(rule.range, without_credentials(rule.url)) for rule in rules)
        for name, rules in router.pools.items()
    }
    return Router(pools, router.lookup, router.cache)


def of_stores(rules: Iterable[Rule], name: str = "stores") -> Router:
    """The router of one pool."""
    return Router({name: tuple(rules)}, (name,))


def backend_router(backend: object) -> Router:
    """The router that an flist's old `backend` setting stands for: host, port, namespace, password.

    InvalidArgument: it is not of that form. A password is kept: it is the flist's own, and readers need it.
    """
    if not isinstance(backend, dict) or not isinstance(backend.get("host"), str) or not backend["host"]:
        raise InvalidArgument("backend: expected a mapping with a host")
    host, port, name = backend["host"], backend.get("port", 9900), backend.get("namespace") or ""
    password = backend.get("password") or ""
    if not (
        isinstance(port, int) and 0 < port < 65536 and isinstance(name, str) and isinstance(password, str)
    ):
        raise InvalidArgument("backend: port, namespace or password is of the wrong kind")
    user = f":{quote(password, safe='')}@" if password else ""
    return of_stores(
        [Rule(EVERY, checked_url(f"zdb://{user}{host}:{port}/{quote(name, safe='')}"))], "backend"
    )


def merged(routers: Sequence[Router]) -> Router:
    """Several as one, pools renamed to `<index>.<name>`, in the order given (spec 3.5)."""
    pools: dict[str, tuple[Rule, ...]] = {}
    lookup: list[str] = []
    cache: list[str] = []
    for index, router in enumerate(routers):
        pools.update({f"{index}.{name}": rules for name, rules in router.pools.items()})
        lookup += [f"{index}.{name}" for name in router.lookup]
        cache += [f"{index}.{name}" for name in router.cache]
    return Router(pools, tuple(lookup), tuple(cache))


def parse_router(text: str | bytes) -> Router:
    """A `router.yaml`. InvalidArgument names the field."""
    if len(text) > ROUTER_BYTES_MAX:
        raise InvalidArgument(f"router.yaml has {len(text)} bytes, limit {ROUTER_BYTES_MAX}")
    tree = yamltext.load(text, "router.yaml", depth=4)
    if not isinstance(tree, dict) or not isinstance(tree.get("pools"), dict):
        raise InvalidArgument("router.yaml: pools: expected a mapping of pools")
    pools = {str(name): _rules(str(name), rules) for name, rules in tree["pools"].items()}
    if len(pools) > POOLS_MAX or sum(map(len, pools.values())) > RULES_MAX:
        raise InvalidArgument(f"router.yaml: over {POOLS_MAX} pools or {RULES_MAX} stores")
    lookup, cache = _names(tree, "lookup", pools), _names(tree, "cache", pools)
    if not lookup:
        raise InvalidArgument("router.yaml: lookup: expected a list of pools")
    return Router(pools, lookup, cache)


def _rules(pool: str, rules: Any) -> tuple[Rule, ...]:
    if not isinstance(rules, dict):
        raise InvalidArgument(f"router.yaml: pools.{pool}: expected a mapping of ranges to URLs")
    made = []
    for key, url in rules.items():
        if not isinstance(key, str) or not isinstance(url, str):
            raise InvalidArgument(f"router.yaml: pools.{pool}: expected range: url")
        try:
            made.append(Rule(parse_range(key), checked_url(url)))
        except InvalidArgument as error:
            raise InvalidArgument(f"router.yaml: pools.{pool}: {error.message}") from None
    return tuple(made)


def _names(tree: dict[Any, Any], field: str, pools: Mapping[str, object]) -> tuple[str, ...]:
    names = tree.get(field) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidArgument(f"router.yaml: {field}: expected a list of pools")
    for name in names:
        if name not in pools:
            raise InvalidArgument(f"router.yaml: {field}: there is no pool {name[:80]!r}")
    return tuple(dict.fromkeys(names))


def format_router(router: Router) -> str:
    """The text of a router.yaml, the same for equal routers."""
    lines = ["pools:"]
    for name, rules in router.pools.items():
        lines.append(f"  {_quoted(name)}:" if rules else f"  {_quoted(name)}: {{}}")
        lines += [f"    {_quoted(str(_ranged(rule.range)))}: {_quoted(rule.url)}" for rule in rules]
    for field, names in (("lookup", router.lookup), ("cache", router.cache)):
        if names:
            lines += [f"{field}:", *(f"  - {_quoted(name)}" for name in names)]
    return "\n".join(lines) + "\n"


def _ranged(range: Range) -> Range:
    return range if range.first else Range(b"\x00", b"\xff")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
