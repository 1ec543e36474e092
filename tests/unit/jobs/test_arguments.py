"""Kinds of argument fields."""

import json
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta, Raw, Struct

from g8node.errors import InvalidArgument
from g8node.jobs import arguments
from g8node.jobs.registry import decode_arguments
from tests.support.badargs import bad, legal


class Args(Struct):
    path: arguments.Path
    owner: arguments.Name
    note: arguments.Text = ""
    size: Annotated[int, Meta(ge=1, lt=10, description="how many")] = 1
    mode: Literal["r", "w"] = "r"
    tags: list[str] | None = None
    sizes: dict[str, int] = msgspec.field(default_factory=dict)
    either: int | str = 0
    raw: Raw = Raw(b"1")


def test_every_field_says_what_is_legal() -> None:
    assert {row["name"]: row["kind"] for row in arguments.described(Args)} == {
        "path": "path",
        "owner": "name",
        "note": "text",
        "size": "int 1..9",
        "mode": "one of r, w",
        "tags": "list of text",
        "sizes": "map of int",
        "either": "int or text",
        "raw": "json",
    }


def test_rows_have_default_and_text() -> None:
    rows = {row["name"]: row for row in arguments.described(Args)}
    assert rows["size"] == {
        "name": "size",
        "kind": "int 1..9",
        "required": False,
        "text": "how many",
        "default": 1,
    }
    assert "default" not in rows["path"]
    assert rows["path"]["required"] is True
    assert rows["sizes"]["default"] == {}
    assert arguments.described(None) == []


class Shaped(Struct):
    name: arguments.Text = ""
    nics: list[Annotated[str, Meta(pattern="x", extra={"kind": "mac"}, description="A MAC address.")]] = []
    env: arguments.Variables = {}
    inner: "list[Shaped] | None" = None
    owner: arguments.Name | None = None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "a\0"}, "Expected text without NUL bytes - at `$.name`"),
        ({"nics": ["x", "y"]}, "Expected mac (A MAC address) - at `$.nics[1]`"),
        ({"env": {"a=b": "c"}}, "Expected variable - at `key` in `$.env`"),
        ({"env": {"a": "\0"}}, "Expected text without NUL bytes - at `$.env[...]`"),
        ({"inner": [{"nics": ["y"]}]}, "Expected mac (A MAC address) - at `$.inner[0].nics[0]`"),
        ({"owner": "a b"}, "Expected name - at `$.owner`"),
        ({"name": 5}, "Expected `str`, got `int` - at `$.name`"),
    ],
)
def test_refusal_tells_the_kind_and_no_regular_expression(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        decode_arguments(json.dumps(given).encode(), Shaped)
    assert str(refusal.value) == f"arguments: {said}"


class Checked(Struct):
    path: arguments.Path
    owner: arguments.Name
    note: arguments.Text = ""
    size: Annotated[int, Meta(ge=1, le=9)] = 1
    mode: Literal["r", "w"] = "r"
    flags: list[bool] = []


def test_arguments_that_fit_are_taken() -> None:
    assert isinstance(decode_arguments(msgspec.json.encode(legal(Checked)), Checked), Checked)


@pytest.mark.parametrize("case", list(bad(Checked)), ids=lambda case: f"{case.field} {case.what}")
def test_what_does_not_fit_is_refused_with_its_name(case: Any) -> None:
    with pytest.raises(InvalidArgument, match=case.field):
        decode_arguments(json.dumps(case.arguments).encode(), Checked)
