"""The command registry: functions that carry their name, role and argument type.

    @command("corex.create", role="operator")
    async def create(ctx: Context, args: CreateArgs) -> int: ...

A handler is `def` or `async def`; a plain `def` must not block and runs without a task of its own. It returns
a value (encoded as JSON, level 20) or a `runtime.stdio.Process`, which the manager then runs.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import msgspec
from msgspec import Raw, Struct

from g8node.errors import InvalidArgument, NotFound
from g8node.jobs.access import may_see
from g8node.jobs.model import LOCAL, Caller, Role, RoleName

if TYPE_CHECKING:
    from g8node.jobs.job import Job
    from g8node.jobs.manager import Manager
    from g8node.node.node import Node

F = TypeVar("F", bound=Callable[..., Any])
_MARK = "__g8_command__"


@dataclass(frozen=True, slots=True)
class Context:
    """What a handler gets. `job.emit(level, text)` adds to the job's log, `jobs` starts and finds others."""

    node: "Node"
    job: "Job"
    jobs: "Manager"

    @property
    def caller(self) -> Caller:
        """Who asks: through the gate, or `local`."""
        return self.job.request.caller or LOCAL

    def sees(self, other: "Job") -> bool:
        """Whether the caller may know of another job. What he may not see does not exist for him."""
        return may_see(self.caller, other.request.caller or LOCAL)


Handler = Callable[..., Any | Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Spec:
    """One registered command. `base`: also available inside containers (spec 4, "B")."""

    name: str
    handler: Handler
    arguments: type[Struct] | None
    base: bool
    role: Role
    is_async: bool

    def call(self, ctx: Context, arguments: bytes | Raw) -> Any:
        """Decode the arguments and call the handler: its value, or an awaitable of it when `is_async`.

        Raises InvalidArgument (400) with the field's path for arguments of a wrong shape.
        """
        if self.arguments is None:
            return self.handler(ctx)
        return self.handler(ctx, decode_arguments(arguments, self.arguments))


def command(name: str, *, base: bool = False, role: RoleName = "operator") -> Callable[[F], F]:
    """Mark a handler for `Registry.add_module`. Its second parameter's annotation is the argument type."""

    def mark(handler: F) -> F:
        spec = Spec(
            name=name,
            handler=handler,
            arguments=_argument_type(handler),
            base=base,
            role=Role.named(role),
            is_async=inspect.iscoroutinefunction(handler),
        )
        setattr(handler, _MARK, spec)
        return handler

    return mark


def _argument_type(handler: Callable[..., Any]) -> type[Struct] | None:
    parameters = list(inspect.signature(handler).parameters.values())
    if len(parameters) < 2:
        return None
    annotation = parameters[1].annotation
    if isinstance(annotation, str):
        annotation = getattr(inspect.getmodule(handler), annotation, None)
    if not (isinstance(annotation, type) and issubclass(annotation, Struct)):
        raise TypeError(
            f"{handler.__qualname__}: the second parameter must be annotated with a msgspec.Struct"
        )
    return annotation


class Registry:
    """Command names and their handlers. Filled at start, read-only once `complete` is set."""

    def __init__(self, modules: Iterable[ModuleType] = (), *, complete: bool = True) -> None:
        """`complete=False`: more modules come while the gate already answers."""
        self._specs: dict[str, Spec] = {}
        self.complete = asyncio.Event()
        if complete:
            self.complete.set()
        for module in modules:
            self.add_module(module)

    def add_module(self, module: ModuleType) -> None:
        """Take every decorated function that module defines."""
        for value in vars(module).values():
            spec = getattr(value, _MARK, None)
            if isinstance(spec, Spec) and value.__module__ == module.__name__:
                self.add(spec)

    def add(self, spec: Spec) -> None:
        if spec.name in self._specs:
            raise ValueError(f"command {spec.name} is registered twice")
        self._specs[spec.name] = spec

    def add_function(self, handler: Callable[..., Any]) -> None:
        """Take one decorated function (tests, extensions)."""
        self.add(getattr(handler, _MARK))

    def get(self, name: str) -> Spec:
        """Raises NotFound."""
        if (spec := self._specs.get(name)) is None:
            raise NotFound(f"unknown command {name!r}")
        return spec

    def find(self, name: str) -> Spec | None:
        return self._specs.get(name)

    async def wait_find(self, name: str) -> Spec | None:
        """As `find`; a name counts as unknown only when the node has registered all it has."""
        if name not in self._specs:
            await self.complete.wait()
        return self._specs.get(name)

    def names(self) -> list[str]:
        return sorted(self._specs)


def decode_arguments(raw: bytes | Raw, kind: type[Struct]) -> Struct:
    """The arguments as kind; null equals absent for every field, unknown fields are ignored."""
    data = bytes(raw)
    try:
        if b"null" in data:
            # By way of text again: convert() makes no Raw, which corex.dispatch keeps its inner command in.
            data = msgspec.json.encode(_without_null(msgspec.json.decode(data) or {}))
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        from g8node.jobs.arguments import explained

        raise InvalidArgument(f"arguments: {explained(str(error), kind)}") from error


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    return value


def arguments_from_words(spec: Spec, words: list[bytes]) -> bytes:
    """The arguments of a direct command: nothing, one JSON object, or key=value words.

    A value is JSON when it parses as such and its field is no string; else it is the text itself.
    """
    if len(words) == 1 and words[0].lstrip()[:1] == b"{":
        return words[0]
    hints = get_type_hints(spec.arguments) if spec.arguments is not None else {}
    fields: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.decode(errors="replace").partition("=")
        if not equals or not name:
            raise InvalidArgument(f"{spec.name}: expected key=value or one JSON object, not {name[:80]!r}")
        if name not in hints:
            raise InvalidArgument(f"{spec.name}: unknown argument {name[:80]!r}", hint=_expected(hints))
        fields[name] = _value(text, hints[name])
    return msgspec.json.encode(fields)


def _expected(hints: dict[str, Any]) -> str:
    return f"expected {', '.join(hints)}" if hints else "it takes no arguments"


def _value(text: str, hint: Any) -> Any:
    try:
        value = msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return text
    is_text = hint is str or hint == (str | None)
    return text if is_text and not isinstance(value, str) else value
