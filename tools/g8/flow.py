"""Conversations with a node as generators (pure), so that one text serves blocking and asyncio clients.

Theory of operation. What a method of the client does is a *flow*: a generator that yields Requests (a redis
command and how long the node may take over it) and is sent their replies. A client knows how to run a flow:
the blocking one does so on the spot, the asyncio one inside an awaitable. Managers are generic over that
mode, and the decorator `call` turns a method that makes a flow into one whose result is a value or an
awaitable of it, for type checkers too. `each` does the same for a method whose flow is run again and again
until it gives None. Both check the arguments' types before anything is sent.
"""

import functools
import inspect
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from typing import (
    Any,
    Concatenate,
    Final,
    Generic,
    Literal,
    NamedTuple,
    ParamSpec,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

import msgspec

from g8node.errors import InvalidArgument

P = ParamSpec("P")
T = TypeVar("T")


class Request(NamedTuple):
    """One redis command; `block_s`: how long the node waits before it answers."""

    words: tuple[str | bytes | int | float, ...]
    block_s: float = 0.0


Flow = Generator[Request, Any, T]


class Mode:
    """How a client runs flows: Blocking or Asyncio."""


class Blocking(Mode):
    """Calls return values."""


class Asyncio(Mode):
    """Calls return awaitables."""


M = TypeVar("M", bound=Mode)


class Runs(Generic[M]):
    """What can run flows, or knows who can."""

    def perform(self, flow: Flow[Any]) -> Any:
        """The flow's result, or an awaitable of it."""
        raise NotImplementedError

    def repeat(self, make: Callable[[], Flow[Any]]) -> Any:
        """An iterator (or async one) over the flows' results, up to the first None."""
        raise NotImplementedError


class ArgumentError(InvalidArgument, ValueError):
    """An argument of a wrong type; nothing was sent."""


class call(Generic[P, T]):
    """A method that makes a flow, as one that runs it."""

    def __init__(self, make: "Callable[Concatenate[Any, P], Flow[T]]") -> None:
        self._make = checked(make)
        self._seen = _without_self(make)
        functools.update_wrapper(self, make)  # type: ignore[arg-type]  # for help()

    @overload
    def __get__(self, owner: Runs[Blocking], kind: Any = None) -> Callable[P, T]: ...
    @overload
    def __get__(self, owner: Runs[Asyncio], kind: Any = None) -> Callable[P, Awaitable[T]]: ...
    def __get__(self, owner: Runs[Any] | None, kind: Any = None) -> Callable[P, Any]:
        if owner is None:  # of the class: for help()
            return self._make

        @functools.wraps(self._make)
        def run(*args: P.args, **kwargs: P.kwargs) -> Any:
            return owner.perform(self._make(owner, *args, **kwargs))

        run.__signature__ = self._seen  # type: ignore[attr-defined]
        return run


class value(Generic[T]):
    """As `call`, for an attribute."""

    def __init__(self, make: Callable[[Any], Flow[T]]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, owner: Runs[Blocking], kind: Any = None) -> T: ...
    @overload
    def __get__(self, owner: Runs[Asyncio], kind: Any = None) -> Awaitable[T]: ...
    def __get__(self, owner: Runs[Any], kind: Any = None) -> Any:
        return self if owner is None else owner.perform(self._make(owner))


class each(Generic[P, T]):
    """A method that makes a flow for the next element, as an iterator; None is the end."""

    def __init__(self, make: "Callable[Concatenate[Any, P], Flow[T | None]]") -> None:
        self._make = checked(make)
        self._seen = _without_self(make)
        functools.update_wrapper(self, make)  # type: ignore[arg-type]

    @overload
    def __get__(self, owner: Runs[Blocking], kind: Any = None) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, owner: Runs[Asyncio], kind: Any = None) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, owner: Runs[Any] | None, kind: Any = None) -> Callable[P, Any]:
        if owner is None:
            return self._make

        @functools.wraps(self._make)
        def run(*args: P.args, **kwargs: P.kwargs) -> Any:
            return owner.repeat(lambda: self._make(owner, *args, **kwargs))

        run.__signature__ = self._seen  # type: ignore[attr-defined]
        return run


def _without_self(make: Callable[..., Any]) -> inspect.Signature:
    signature = inspect.signature(make)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


# Types of arguments

_PLAIN: Final = (str, int, float, bool, bytes, type(None), Any)
_SHAPES: Final = (list, dict, tuple, Union, types.UnionType, Literal, Mapping, Sequence)


def _is_checkable(hint: Any) -> bool:
    if hint in _PLAIN or get_origin(hint) is Literal:
        return True
    return get_origin(hint) in _SHAPES and all(_is_checkable(each) for each in get_args(hint))


def checked(make: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which refuses arguments of a wrong type with an ArgumentError that names them."""
    signature = inspect.signature(make)

    @functools.cache
    def hints() -> dict[str, Any]:
        return {name: hint for name, hint in get_type_hints(make).items() if _is_checkable(hint)}

    @functools.wraps(make)
    def checking(*args: Any, **kwargs: Any) -> Any:
        for name, given in signature.bind(*args, **kwargs).arguments.items():
            if name in hints():
                kind = signature.parameters[name].kind
                _check(make.__name__, name, given, hints()[name], kind)
        return make(*args, **kwargs)

    return checking


def _check(method: str, name: str, given: Any, hint: Any, kind: Any) -> None:
    if kind is inspect.Parameter.VAR_POSITIONAL:
        hint = list[hint]
    elif kind is inspect.Parameter.VAR_KEYWORD:
        hint = dict[str, hint]
    try:
        msgspec.convert(given, hint, builtin_types=(bytes, bytearray))  # a str is no base64 here
    except msgspec.ValidationError as error:
        raise ArgumentError(f"{method}: {name}: {error}") from None
