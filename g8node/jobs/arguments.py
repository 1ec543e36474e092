"""Argument fields: their kinds, and how these are told to a person (pure).

A struct of arguments says of each field what is legal by its annotation alone: `Path`, `Text`, a range of an
int, a `Literal`. msgspec refuses everything else with the field's path; `described` is what `core.help` and
docs/commands.md say.
"""

import re
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw, Struct
from msgspec import inspect as shapes

PATH_BYTES_MAX: Final = 4095
_NO_NUL: Final = r"\A[^\x00]*\Z"

Path = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=PATH_BYTES_MAX,
        pattern=_NO_NUL,
        extra={"kind": "path"},
        description="absolute, or from the root",
    ),
]
Name = Annotated[
    str, Meta(min_length=1, max_length=255, pattern=r"\A[^\x00-\x20/]+\Z", extra={"kind": "name"})
]
Text = Annotated[str, Meta(pattern=_NO_NUL, extra={"kind": "text"})]
Data = Annotated[str, Meta(extra={"kind": "data"}, description="any characters")]
JobId = Annotated[str, Meta(min_length=1, max_length=4096, extra={"kind": "job id"})]
OptionalJobId = Annotated[str, Meta(max_length=4096, extra={"kind": "job id"}, description="empty: all")]
CommandName = Annotated[str, Meta(max_length=255, extra={"kind": "command"}, description="empty: all")]
ContainerId = Annotated[int, Meta(ge=0, le=2**31 - 1, extra={"kind": "container id"})]
CommandObject = Annotated[Raw, Meta(extra={"kind": "command object"}, description="as sent to core:default")]
Pid = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Signal = Annotated[int, Meta(ge=0, le=64)]
Variables = dict[
    Annotated[str, Meta(pattern=r"\A[^=\x00]+\Z", extra={"kind": "variable"})],
    Annotated[str, Meta(pattern=_NO_NUL, extra={"kind": "text"})],
]

_PLAIN: Final[dict[type, str]] = {
    shapes.IntType: "int",
    shapes.FloatType: "float",
    shapes.BoolType: "bool",
    shapes.StrType: "text",
    shapes.NoneType: "null",
    shapes.RawType: "json",
    shapes.AnyType: "json",
    shapes.StructType: "object",
}


def described(arguments: type[Struct] | None) -> list[dict[str, Any]]:
    """Each field as `{name, kind, required, default?, text}`; kind is for a person, e.g. `int 0..42`."""
    if arguments is None:
        return []
    rows = []
    for shape in _fields(arguments):
        row = {
            "name": shape.encode_name,
            "kind": kind(shape.type),
            "required": shape.required,
            "text": _text(shape.type),
        }
        if not shape.required:
            row["default"] = _default(shape)
        rows.append(row)
    return rows


_UNFIT: Final = re.compile(
    r"Expected `str` matching regex (?P<regex>.*) - at (?P<key>`key` in )?`\$(?P<path>.*)`", re.DOTALL
)
_STEP: Final = re.compile(r"\.([^.\[]+)|\[[^\]]*\]")


def explained(refusal: str, arguments: type[Struct]) -> str:
    """What msgspec says of arguments, with the field's kind in place of its regular expression."""
    if (found := _UNFIT.fullmatch(refusal)) is None:
        return refusal
    shape: shapes.Type = shapes.type_info(arguments)
    for step in _STEP.finditer(found["path"]):
        shape = _below(shape, step[1], is_key=False)
    if found["key"]:
        shape = _below(shape, None, is_key=True)
    text = f" ({said.rstrip('.')})" if (said := _text(shape)) else ""
    zero = " without NUL bytes" if found["regex"] == repr(_NO_NUL) else ""
    return f"Expected {kind(shape)}{zero}{text} - at {found['key'] or ''}`${found['path']}`"


def _below(shape: shapes.Type, name: str | None, *, is_key: bool) -> shapes.Type:
    """The field of that name, or an element; anything where a union leaves it open."""
    while isinstance(shape, shapes.Metadata):
        shape = shape.type
    if isinstance(shape, shapes.UnionType):
        inner = (each for each in shape.types if not isinstance(each, shapes.NoneType | shapes.StrType))
        return _below(next(inner, shapes.AnyType()), name, is_key=is_key)
    if isinstance(shape, shapes.StructType):
        return next((each.type for each in shape.fields if each.encode_name == name), shapes.AnyType())
    if isinstance(shape, shapes.DictType):
        return shape.key_type if is_key else shape.value_type
    if isinstance(shape, shapes.ListType | shapes.VarTupleType | shapes.SetType):
        return shape.item_type
    return shapes.AnyType()


def shapes_of(arguments: type[Struct]) -> dict[str, shapes.Type]:
    """msgspec's own description of each field, for those who make values that fit or do not."""
    return {shape.encode_name: shape.type for shape in _fields(arguments)}


def _fields(arguments: type[Struct]) -> tuple[shapes.Field, ...]:
    info = shapes.type_info(arguments)
    assert isinstance(info, shapes.StructType)
    return info.fields


def _default(shape: shapes.Field) -> Any:
    made: Any = shape.default
    if shape.default_factory is not msgspec.NODEFAULT:
        made = shape.default_factory()
    return msgspec.to_builtins(made, enc_hook=str)


def _text(shape: shapes.Type) -> str:
    if isinstance(shape, shapes.Metadata):
        return str((shape.extra_json_schema or {}).get("description", ""))
    return ""


def kind(shape: shapes.Type) -> str:
    """What is legal, in a few words."""
    if isinstance(shape, shapes.Metadata):
        named = (shape.extra or {}).get("kind")
        return str(named) if named else kind(shape.type)
    if isinstance(shape, shapes.UnionType):
        return " or ".join(kind(each) for each in shape.types if not isinstance(each, shapes.NoneType))
    if isinstance(shape, shapes.LiteralType):
        return f"one of {', '.join(str(value) for value in shape.values)}"
    if isinstance(shape, shapes.IntType | shapes.FloatType):
        return _PLAIN[type(shape)] + _range(shape)
    return _collection(shape) or _PLAIN.get(type(shape), type(shape).__name__.removesuffix("Type").lower())


def _collection(shape: shapes.Type) -> str:
    if isinstance(shape, shapes.ListType | shapes.VarTupleType | shapes.SetType):
        return f"list of {kind(shape.item_type)}"
    if isinstance(shape, shapes.DictType):
        return f"map of {kind(shape.value_type)}"
    return ""


def _range(shape: shapes.IntType | shapes.FloatType) -> str:
    least = shape.ge if shape.ge is not None else _next(shape.gt, 1)
    most = shape.le if shape.le is not None else _next(shape.lt, -1)
    if least is None and most is None:
        return ""
    return f" {'' if least is None else least}..{'' if most is None else most}"


def _next(bound: float | None, step: int) -> float | None:
    return None if bound is None else bound + step
