"""From a struct of arguments: one set that fits, and many of which one field does not.

A field says what is legal by its type: a `Literal`, a range of an int, a bool, or a text with a named kind
(`Meta(extra={"kind": ...})`). KINDS has what the generator must know of each kind. `undeclared` finds the
fields that say nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from msgspec import Struct
from msgspec import inspect as shapes

from g8node.jobs.arguments import shapes_of

KINDS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    # kind: (a legal value that harms nobody, illegal values beside those that its pattern and lengths forbid)
    "absolute path": ("/nonexistent/g8node-test", ("", "relative", "./x")),
    "address or empty": ("", ("x", "300.1.1.1", "1.1.1.1/8", "::g")),
    "base64": ("", ("*", "YQ=", "é")),
    "chunk store": ("127.0.0.1:9", ("", "a b", "ftp://x", "host:0")),
    "command": ("core.ping", ("a" * 256,)),
    "command object": ({"command": "core.ping"}, (1, "x", [], True, {"command": 1}, {"id": 5})),
    "command line": ("true", ("'", "a\0b")),
    "container id": (0, (2**31,)),
    "data": ("", ()),
    "device": ("/dev/g8node-nonexistent", ("", "../x", "-x", "a b")),
    "device rule": ("/dev/null", ("", "null", "/dev/../etc", "/etc/passwd", "/dev/x:/dev/y:z", "/dev/x:y")),
    "device or empty": ("", ("../x", "-x", "a b")),
    "disk": ("sd", ("", "../x", "a b")),
    "domain": ("cpu", ("", "no-such-domain")),
    "endpoint or empty": ("", ("x", "1.2.3.4", "ho_st:1", "1.2.3:4", "1.2.3.4:0", "::1:5", "[1.2.3.4]:5")),
    "file inside": ("/etc/g8node-test", ("", "/", "a\0b")),
    "folder inside": ("/", ("relative", "a/b")),
    "flist": ("/nonexistent/g8node-test.flist", ("", "relative", "ftp://x/y", "a\0b")),
    "folder to pack": ("/", ("", "relative", "a\0b")),
    "forward": ("8080", ("", "x", "0", "65536", "eth0", "eth0:0", "80|http", "80|")),
    "group": ("g8node-test", ("", "a/b", "..", "-x", "a" * 65)),
    "group or subsystem": ("memory", ("", "a/b", "..", "-x", "a" * 65)),
    "handle": ("0-0", ("",)),
    "host": ("localhost", ("", "-x", "a b", "a/b")),
    "host name": ("g8node-test", ("-x", "a b", "a" * 65)),
    "hosts": ("192.0.2.1", ("", "a/b", "a;b")),
    "interface address": ("192.0.2.1/24", ("", "x", "300.1.1.1/8", "192.0.2.1/33", "::1/129")),
    "interface address or empty": ("", ("x", "10.0.0.1", "300.1.1.1/8", "192.0.2.1/33")),
    "ipv4": ("192.0.2.1", ("", "x", "300.1.1.1", "1.2.3", "::1")),
    "ipv4 or empty": ("", ("x", "300.1.1.1", "1.2.3", "1.2.3.4.")),
    "job id": ("g8node-no-such-job", ("a" * 4097,)),
    "hub token": ("", ()),
    "keyword": ("bios", ("nothing", "-1", "43")),
    "label": ("x", ("a\nb", "a" * 256)),
    "label or none": ("x", ("a\0b",)),
    "link": ("g8none0", ("", ".", "..", "a/b", "a:b", "a" * 16)),
    "link inside or empty": ("", ("eth0", "zt1", "default", "lo", ".", "a/b", "a" * 16)),
    "link or empty": ("", (".", "a/b", "a" * 16)),
    "list": ("g8node-test", ("a" * 129,)),
    "log level": ("INFO", ("", "LOUD")),
    "mac": ("00:11:22:33:44:55", ("", "x", "00:11:22:33:44", "00:11:22:33:44:gg")),
    "mac or empty": ("", ("x", "00:11:22:33:44", "00:11:22:33:44:gg")),
    "mount source": ("/nonexistent/g8node-test", ("", "relative", "/a\0b")),
    "mount target": ("/mnt", ("", "relative", "/", "/dev", "/proc/", "/a\0b")),
    "name": ("root", ("", "a b", "a/b")),
    "network or empty": ("", ("x", "300.1.1.0/24", "192.0.2.0/33")),
    "numbers": ("", ("x", "1-", "1,,2", "-1")),
    "path": ("/nonexistent/g8node-test", ("", "a\0b")),
    "position": ("1MB", ("", "x", "1XB", "--1")),
    "repository": (
        "/nonexistent/g8node-test?password=x",
        ("", "/x", "x?password=y", "ftp:/x?password=y", "s3:?password=y", "/x?password=\n"),
    ),
    "root": ("/nonexistent/g8node-test.flist", ("", "restic:x?password=y#abcdef12", "restic:/x#abcdef12")),
    "shell line": ("true", ("", "a\0b")),
    "size": ("100M", ("", "x", "-1", "1.5M")),
    "snapshot": (
        "/nonexistent/g8node-test?password=x#abcdef12",
        ("", "/x?password=y", "/x#abcdef12", "/x?password=y#-x"),
    ),
    "storage": ("", ("a\0b",)),
    "sysctl": ("net.core.somaxconn", ("", "vm.swappiness", "kernel.hostname", "net/core", "net..x")),
    "text": ("x", ()),
    "url": ("http://127.0.0.1:9/x", ("", "ftp://x", "x")),
    "url or empty": ("", ("x", "ftp://x/y", "http://")),
    "user": ("root", ("a b", "a:b:c", ":", "a/b")),
    "uuid": ("00000000-00", ("", "x y", "g")),
    "vdisk": ("g8node-no-such-vdisk", ("", "a b", "é", "a" * 81)),
    "vdisk or empty": ("", ("a b", "é", "a" * 81)),
    "volume": ("g8node-no-such-volume", ("", "a b", "a/b", ".x", "..", "é", "a" * 65, "a\n")),
    "wireguard key": ("A" * 43 + "=", ("", "x", "A" * 44, "A" * 42 + "B=")),
    "variable": ("X", ("", "a=b")),
    "zerotier network": ("0" * 16, ("", "x", "0" * 15, "0" * 17)),
}
_WRONG: dict[type, tuple[Any, ...]] = {
    shapes.IntType: ("many", 1.5, True, [], {}, 10**400),
    shapes.FloatType: ("many", True, [], {}),
    shapes.BoolType: ("true", 1, [], {}),
    shapes.StrType: (1, 1.5, True, ["x"], {}),
    shapes.ListType: ("x", 1, True, {}),
    shapes.DictType: ("x", 1, True, []),
    shapes.StructType: ("x", 1, True, []),
    shapes.RawType: (),
    shapes.AnyType: (),
    shapes.NoneType: (),
}


@dataclass(frozen=True)
class Bad:
    """`field` is at fault in `arguments`."""

    what: str
    field: str
    arguments: dict[str, Any]


def undeclared(arguments: type[Struct]) -> list[str]:
    """The fields of which any value of its type would do."""
    return [name for name, shape in shapes_of(arguments).items() if not _is_declared(shape)]


def _is_declared(shape: shapes.Type) -> bool:
    if named := _named(shape):
        return named in KINDS
    plain = _plain(shape)
    if isinstance(plain, shapes.UnionType):
        return all(_is_declared(each) for each in plain.types)
    if isinstance(plain, shapes.ListType):
        return _is_declared(plain.item_type)
    if isinstance(plain, shapes.DictType):
        return _is_declared(plain.key_type) and _is_declared(plain.value_type)
    if isinstance(plain, shapes.StructType):
        return all(_is_declared(field.type) for field in plain.fields)
    if isinstance(plain, shapes.IntType):
        return plain.ge is not None and plain.le is not None
    if isinstance(plain, shapes.FloatType):
        return plain.ge is not None and plain.le is not None
    return isinstance(plain, shapes.BoolType | shapes.LiteralType | shapes.NoneType)


def legal(arguments: type[Struct]) -> dict[str, Any]:
    """Every field with a value that its declaration allows."""
    return {name: _legal(shape) for name, shape in shapes_of(arguments).items()}


def bad(arguments: type[Struct]) -> Iterator[Bad]:
    """Each field missing (if required), of every wrong type, and with what its kind forbids."""
    good = legal(arguments)
    for field in shapes.type_info(arguments).fields:  # type: ignore[attr-defined]  # it is a StructType
        name, shape = field.encode_name, field.type
        if field.required:
            yield Bad("missing", name, {key: value for key, value in good.items() if key != name})
            yield Bad("null", name, good | {name: None})
        for value in _wrong(shape):
            yield Bad(f"wrong type {value!r:.40}", name, good | {name: value})
        for value in _illegal(shape):
            yield Bad(f"illegal {value!r:.40}", name, good | {name: value})


def _named(shape: shapes.Type) -> str:
    return str((shape.extra or {}).get("kind", "")) if isinstance(shape, shapes.Metadata) else ""


def _plain(shape: shapes.Type) -> Any:
    while isinstance(shape, shapes.Metadata):
        shape = shape.type
    return shape


def _legal(shape: shapes.Type) -> Any:
    plain = _plain(shape)
    examples = (getattr(shape, "extra_json_schema", None) or {}).get("examples")
    if examples:
        return examples[0]
    if named := _named(shape):
        value = KINDS[named][0]
        return value if not isinstance(plain, shapes.IntType) else max(value, plain.ge or 0)
    if isinstance(plain, shapes.UnionType):
        return _legal(plain.types[0])
    if isinstance(plain, shapes.LiteralType):
        return plain.values[0]
    if isinstance(plain, shapes.IntType):
        return max(plain.ge or 0, 0)
    if isinstance(plain, shapes.FloatType):
        return plain.ge or 0.0
    if isinstance(plain, shapes.ListType):
        return [_legal(plain.item_type)] * (plain.min_length or 0)
    if isinstance(plain, shapes.StructType):
        return {field.encode_name: _legal(field.type) for field in plain.fields if field.required}
    empty: dict[type, Any] = {shapes.BoolType: False, shapes.DictType: {}, shapes.StrType: "x"}
    return empty.get(type(plain))


def _wrong(shape: shapes.Type) -> list[Any]:
    plain = _plain(shape)
    if isinstance(plain, shapes.LiteralType):
        return [1, True, [], {}]
    if isinstance(plain, shapes.UnionType):
        lists = [_wrong(each) for each in plain.types if not isinstance(each, shapes.NoneType)]
        return [value for value in lists[0] if all(_among(value, each) for each in lists[1:])]
    values = list(_WRONG[type(plain)])
    if isinstance(plain, shapes.ListType):
        values += [[value] for value in _wrong(plain.item_type)]
    if isinstance(plain, shapes.DictType):
        values += [{"x": value} for value in _wrong(plain.value_type)]
    return values


def _among(value: Any, values: list[Any]) -> bool:
    return any(type(value) is type(each) and value == each for each in values)


def _illegal(shape: shapes.Type) -> Iterator[Any]:
    plain = _plain(shape)
    if named := _named(shape):
        yield from KINDS[named][1]
    if isinstance(plain, shapes.LiteralType):
        yield from ("no-such-word", "rw")
    elif isinstance(plain, shapes.IntType | shapes.FloatType):
        if plain.ge is not None:
            yield plain.ge - 1
        if plain.le is not None:
            yield plain.le + 1
    elif isinstance(plain, shapes.StrType):
        yield from _illegal_text(plain)
    elif isinstance(plain, shapes.UnionType):
        for each in plain.types:
            yield from (value for value in _illegal(each) if not _fits_another(value, each, plain))
    else:
        yield from _illegal_collection(plain)


def _fits_another(value: Any, shape: shapes.Type, union: shapes.UnionType) -> bool:
    """A bad int is a bad member of `int | str`; a bad list may hold good texts."""
    others = [_plain(each) for each in union.types if each is not shape]
    kinds = {shapes.StrType: str, shapes.IntType: int, shapes.ListType: list}
    return any(type(value) is kinds.get(type(other)) for other in others)


def _illegal_collection(plain: Any) -> Iterator[Any]:
    if isinstance(plain, shapes.StructType):
        for field in plain.fields:
            for value in (*_wrong(field.type), *_illegal(field.type)):
                yield _legal(plain) | {field.encode_name: value}
    if isinstance(plain, shapes.ListType):
        if plain.max_length is not None:
            yield [_legal(plain.item_type)] * (plain.max_length + 1)
        if plain.min_length:
            yield []
        yield from ([value] for value in _illegal(plain.item_type))
    elif isinstance(plain, shapes.DictType):
        if plain.max_length is not None:
            yield {f"x{n}": _legal(plain.value_type) for n in range(plain.max_length + 1)}
        yield from ({value: _legal(plain.value_type)} for value in _illegal(plain.key_type))
        yield from ({"x": value} for value in _illegal(plain.value_type))


def _illegal_text(plain: shapes.StrType) -> Iterator[str]:
    if plain.min_length:
        yield ""
    if plain.max_length is not None:
        yield "a" * (plain.max_length + 1)
    if plain.pattern is not None:
        yield "a\0b"
