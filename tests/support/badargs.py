"""From a struct of arguments: one set that fits, and many of which one field does not."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from msgspec import Struct
from msgspec import inspect as shapes

from g8node.jobs.arguments import kind, shapes_of

_LEGAL = {
    "path": "/nonexistent/g8node-test",
    "name": "root",
    "url": "http://127.0.0.1:9/x",
    "handle": "0-0",
    "base64": "",
    "text": "x",
}
_WRONG: dict[type, tuple[Any, ...]] = {
    shapes.IntType: ("many", 1.5, True, [], {}, 10**400),
    shapes.FloatType: ("many", True, [], {}),
    shapes.BoolType: ("true", 1, [], {}),
    shapes.StrType: (1, 1.5, True, ["x"], {}),
    shapes.ListType: ("x", 1, True, {}),
    shapes.DictType: ("x", 1, True, []),
}


@dataclass(frozen=True)
class Bad:
    """`field` is at fault in `arguments`."""

    what: str
    field: str
    arguments: dict[str, Any]


def legal(arguments: type[Struct]) -> dict[str, Any]:
    """Every field with a value that its declaration allows: text by its kind, or `Meta(examples=...)`."""
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


def _plain(shape: shapes.Type) -> Any:
    return shape.type if isinstance(shape, shapes.Metadata) else shape


def _given(union: shapes.UnionType) -> list[shapes.Type]:
    """Its types but null, which means that the argument is not given."""
    return [each for each in union.types if not isinstance(each, shapes.NoneType)]


def _legal(shape: shapes.Type) -> Any:
    plain = _plain(shape)
    if isinstance(plain, shapes.UnionType):
        return _legal(_given(plain)[0])
    if isinstance(plain, shapes.LiteralType):
        return plain.values[0]
    if isinstance(plain, shapes.IntType):
        return plain.ge or 0
    if isinstance(plain, shapes.StrType):
        examples = (getattr(shape, "extra_json_schema", None) or {}).get("examples")
        return examples[0] if examples else _LEGAL[kind(shape)]
    empty: dict[type, Any] = {shapes.BoolType: False, shapes.ListType: [], shapes.DictType: {}}
    return empty[type(plain)]


def _wrong(shape: shapes.Type) -> list[Any]:
    plain = _plain(shape)
    if isinstance(plain, shapes.LiteralType):
        return [1, True, [], {}]
    if isinstance(plain, shapes.UnionType):
        lists = [_wrong(each) for each in _given(plain)]
        return [value for value in lists[0] if all(_among(value, each) for each in lists[1:])]
    values = list(_WRONG[type(plain)])
    if isinstance(plain, shapes.ListType):
        values += [[value] for value in _wrong(plain.item_type)]
    return values


def _among(value: Any, values: list[Any]) -> bool:
    return any(type(value) is type(each) and value == each for each in values)


def _illegal(shape: shapes.Type) -> Iterator[Any]:
    plain = _plain(shape)
    if isinstance(plain, shapes.LiteralType):
        yield from ("", "no-such-word", "rw")
    elif isinstance(plain, shapes.IntType):
        if plain.ge is not None:
            yield plain.ge - 1
        if plain.le is not None:
            yield plain.le + 1
    elif isinstance(plain, shapes.StrType):
        yield from _illegal_text(plain)
    elif isinstance(plain, shapes.ListType):
        if plain.max_length is not None:
            yield [_legal(plain.item_type)] * (plain.max_length + 1)
        yield from ([value] for value in _illegal(plain.item_type))
    elif isinstance(plain, shapes.UnionType):
        for each in _given(plain):
            yield from _illegal(each)


def _illegal_text(plain: shapes.StrType) -> Iterator[str]:
    if plain.min_length:
        yield ""
    if plain.max_length is not None:
        yield "a" * (plain.max_length + 1)
    if plain.pattern is not None:
        yield "a\0b"
