"""The command registry: names, roles, arguments."""

import types
from typing import Any

import pytest
from msgspec import Struct

from g8node.errors import InvalidArgument, NotFound
from g8node.jobs.model import Role
from g8node.jobs.registry import Context, Registry, Spec, arguments_from_words, command, decode_arguments


class Inner(Struct):
    size: int = 0


class Args(Struct):
    name: str
    count: int = 1
    items: list[int] = []
    inner: Inner | None = None


@command("test.run", base=True, role="admin")
def run(ctx: Context, args: Args) -> Args:
    return args


@command("test.bare", role="reader")
async def bare(ctx: Context) -> None: ...


def registry() -> Registry:
    module = types.ModuleType(__name__)
    vars(module).update(run=run, bare=bare, other=Args)
    return Registry([module])


def spec(name: str = "test.run") -> Spec:
    return registry().get(name)


def test_registry_collects_decorated_functions_with_their_facts() -> None:
    assert registry().names() == ["test.bare", "test.run"]
    assert (spec().base, spec().role, spec().arguments, spec().is_async) == (True, Role.ADMIN, Args, False)
    assert (spec("test.bare").arguments, spec("test.bare").is_async) == (None, True)


def test_registry_unknown_name_is_not_found() -> None:
    with pytest.raises(NotFound, match="unknown command 'nope'"):
        registry().get("nope")


def test_registry_refuses_a_name_twice() -> None:
    twice = registry()
    with pytest.raises(ValueError, match=r"test\.run"):
        twice.add_function(run)


def test_arguments_null_equals_absent_at_every_depth() -> None:
    raw = b'{"name":"a","count":null,"items":null,"inner":{"size":null},"other":1}'
    assert decode_arguments(raw, Args) == Args("a", 1, [], Inner(0))


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        (b"{}", "`name`"),
        (b'{"name":null}', "`name`"),
        (b'{"name":1}', "$.name"),
        (b'{"name":"a","items":[1,"x"]}', "$.items[1]"),
        (b'{"name":"a","inner":{"size":"x"}}', "$.inner.size"),
        (b"[]", "object"),
        (b'"x"', "object"),
    ],
)
def test_arguments_of_a_wrong_shape_name_the_field(raw: bytes, named: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        decode_arguments(raw, Args)
    assert named in str(raised.value)
    assert raised.value.status == 400


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([b'{"name":"a"}'], {"name": "a"}),
        ([b"name=a b"], {"name": "a b"}),
        ([b'name="ls /"'], {"name": "ls /"}),
        ([b"name=12", b"count=12"], {"name": "12", "count": 12}),
        ([b"name=true", b"items=[1,2]"], {"name": "true", "items": [1, 2]}),
        ([b"name=a=b"], {"name": "a=b"}),
    ],
)
def test_words_become_arguments_by_the_type_of_their_field(
    words: list[bytes], expected: dict[str, Any]
) -> None:
    args = decode_arguments(arguments_from_words(spec(), words), Args)
    assert {name: getattr(args, name) for name in expected} == expected


@pytest.mark.parametrize(("word", "named"), [(b"ls", "key=value"), (b"nme=x", "'nme'"), (b"=x", "key=value")])
def test_words_that_fit_no_argument_are_named(word: bytes, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        arguments_from_words(spec(), [word])
