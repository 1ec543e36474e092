"""Boot services and extensions as tables (pure): the TOML of the include folders; spec core0-protocol 1.5.

Nothing here raises on bad input. What is wrong with one entry drops that entry and becomes a problem, a line
that names file and key; whatever depends on a dropped service is dropped too. Keys match without case and
underscores, as those of the main file. Conditions and `{key}` are decided in one pass over the union of the
environment and the kernel parameters.
"""

import re
import tomllib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from g8node.errors import InvalidArgument
from g8node.jobs.model import RoleName
from g8node.wire import condition

Slice = Literal["init", "net", "boot"]
SLICES: Final[tuple[Slice, ...]] = ("init", "net", "boot")
"""In the order they are run. A service is in the last one that it comes after, directly or not."""

DELAY_S: Final = 2
DEADLINE_S: Final = 60
ID_MAX: Final = 200
COUNT_MAX: Final = 1000
DEPTH_MAX: Final = 32

_KEY: Final = re.compile(r"\{([^{}]+)\}")
_POSIX: Final = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": r" \t",
    "digit": "0-9",
    "lower": "a-z",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\s",
    "upper": "A-Z",
    "word": r"\w",
    "xdigit": "0-9a-fA-F",
}


class Startup(Struct, frozen=True):
    """`[startup.<id>]` as it is written; `deadline` (seconds) is ours."""

    name: Annotated[str, Meta(min_length=1)]
    args: dict[str, Any] = {}
    after: tuple[str, ...] = ()
    condition: str = ""
    running_delay: int = 0
    running_match: str = ""
    recurring_period: Annotated[int, Meta(ge=0)] = 0
    max_restart: Annotated[int, Meta(ge=0)] = 0
    tags: list[str] | None = None
    protected: bool = False
    deadline: Annotated[int, Meta(ge=1, le=86400)] = DEADLINE_S


class Extension(Struct, frozen=True):
    """`[extension.<name>]`: a command that runs a program; `role` (who may) is ours."""

    binary: Annotated[str, Meta(min_length=1)]
    args: tuple[str, ...] = ()
    cwd: str = ""
    env: dict[str, str] = {}
    role: RoleName = "admin"


@dataclass(frozen=True, slots=True)
class Service:
    """One service, ready to run: conditions decided, keys substituted."""

    id: str
    startup: Startup
    args: Mapping[str, Any]
    slice: Slice
    after: tuple[str, ...]
    wanted: bool
    match: re.Pattern[str] | None = None

    @property
    def delay_s(self) -> float | None:
        """When it counts as running; None: when its output matches, or when it has exited."""
        delay = self.startup.running_delay
        return None if self.match is not None or delay < 0 else float(delay or DELAY_S)


@dataclass(slots=True)
class Plan:
    """What the include folders ask for. `problems` are for the console, `dropped` says why by service id."""

    services: dict[str, Service] = field(default_factory=dict)
    extensions: dict[str, Extension] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def drop(self, file: str, id: str, reason: str) -> None:
        self.problems.append(f"{file}: startup.{id}: {reason}, dropped")
        self.dropped[id] = reason


def load(
    files: Iterable[tuple[str, str]],
    *,
    parameters: Mapping[str, str],
    environ: Mapping[str, str],
    extensions: Mapping[str, Any] | None = None,
) -> Plan:
    """The plan that (path, text) of the include folders make; of two services with one id the last counts.

    `extensions` are those of the main file, which come first.
    """
    plan = Plan()
    for name, entry in (extensions or {}).items():
        _add_extension(plan, "settings", name, entry)
    startups: dict[str, tuple[str, Any]] = {}
    for file, text in files:
        for id, entry in _sections(plan, file, text).items():
            if id in startups or len(startups) < COUNT_MAX:
                startups[id] = (file, entry)
            else:
                plan.drop(file, id, f"there are {COUNT_MAX} services already")
    values = {name: _clean(value) for name, value in {**parameters, **environ}.items()}
    parsed: dict[str, tuple[str, Service]] = {}
    for id, (file, entry) in startups.items():
        try:
            parsed[id] = (file, _service(plan, file, id, entry, parameters, values))
        except InvalidArgument as error:
            plan.drop(file, id, str(error))
    _drop_unreachable(plan, parsed)
    slices = _slices({id: service.startup.after for id, (_, service) in parsed.items()})
    for id, (_, service) in parsed.items():
        same = tuple(each for each in service.startup.after if slices.get(each) == slices[id])
        plan.services[id] = Service(
            id, service.startup, service.args, slices[id], same, service.wanted, service.match
        )
    return plan


# Reading


def _sections(plan: Plan, file: str, text: str) -> dict[str, Any]:
    """The startup entries of one file; its extensions go into the plan."""
    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        plan.problems.append(f"{file}: {error or 'nested too deep'}, file dropped")
        return {}
    found: dict[str, Any] = {}
    for section, entries in tree.items():
        kind = section.lower()
        if kind not in ("startup", "extension"):
            plan.problems.append(f"{file}: {section}: unknown key, dropped")
        elif not isinstance(entries, dict):
            plan.problems.append(f"{file}: {section}: expected a table, dropped")
        elif kind == "startup":
            found |= entries
        else:
            for name, entry in entries.items():
                _add_extension(plan, file, name, entry)
    return found


def _add_extension(plan: Plan, file: str, name: str, entry: Any) -> None:
    where = f"{file}: extension.{name}"
    if name in plan.extensions or len(plan.extensions) >= COUNT_MAX:
        plan.problems.append(f"{where}: the name is taken, or there are {COUNT_MAX} extensions; dropped")
        return
    try:
        plan.extensions[name] = _typed(plan, where, entry, Extension)
    except InvalidArgument as error:
        plan.problems.append(f"{where}: {error}, dropped")


def _typed(plan: Plan, where: str, entry: Any, kind: Any) -> Any:
    """The entry as `kind`; an unknown key is a problem only. InvalidArgument names an ill-typed key."""
    if not isinstance(entry, dict):
        raise InvalidArgument("expected a table")
    names = {_fold(each.name): each.name for each in msgspec.structs.fields(kind)}
    known: dict[str, Any] = {}
    for key, value in entry.items():
        if (name := names.get(_fold(key))) is None:
            plan.problems.append(f"{where}.{key}: unknown key, ignored")
        else:
            known[name] = value
    try:
        return msgspec.convert(known, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InvalidArgument(str(error)) from error


def _fold(key: str) -> str:
    return key.replace("_", "").lower()


def _clean(text: str) -> str:
    """Bytes of the environment that are no UTF-8 come as lone surrogates, which JSON cannot hold."""
    return text.encode("utf-8", "replace").decode()


def _service(
    plan: Plan, file: str, id: str, entry: Any, parameters: Mapping[str, str], values: Mapping[str, str]
) -> Service:
    """Raises InvalidArgument naming the key."""
    if not id or len(id) > ID_MAX or id in SLICES:
        raise InvalidArgument(
            f"expected an id of 1 to {ID_MAX} characters that is none of {', '.join(SLICES)}"
        )
    startup: Startup = _typed(plan, f"{file}: startup.{id}", entry, Startup)
    args = resolved(startup.args, values)
    try:
        msgspec.json.encode(args)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidArgument(f"args: {error}") from error
    wanted = condition.parse(startup.condition).holds(parameters)
    return Service(id, startup, args, "boot", (), wanted, _pattern(startup.running_match))


def _pattern(text: str) -> re.Pattern[str] | None:
    """A POSIX extended expression, as far as Python's differ: the named classes."""
    if not text:
        return None
    translated = re.sub(r"\[:(\w+):\]", lambda found: _POSIX.get(found[1], found[0]), text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "possible nested set": POSIX has none
            return re.compile(translated)
    except (re.error, RecursionError, OverflowError) as error:
        raise InvalidArgument(f"running_match: {error}") from error


# Arguments


def resolved(args: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """The arguments with `"<expr>|<name>"` keys decided and `{key}` replaced, at any depth, in one pass.

    Names in an expression are those of `values`; unknown `{key}`s stay. Raises InvalidArgument.
    """
    return _resolved_table(args, values, 0)


def _resolved_table(table: Mapping[str, Any], values: Mapping[str, str], depth: int) -> dict[str, Any]:
    if depth > DEPTH_MAX:
        raise InvalidArgument(f"args: nested deeper than {DEPTH_MAX}")
    found: dict[str, Any] = {}
    for key, value in table.items():
        expression, bar, name = key.partition("|")
        if bar:
            try:
                holds = condition.parse(expression).holds(values)
            except InvalidArgument as error:
                raise InvalidArgument(f"args.{key[:80]}: {error}") from error
            if not holds:
                continue
        found[name if bar else key] = _resolved(value, values, depth)
    return found


def _resolved(value: Any, values: Mapping[str, str], depth: int) -> Any:
    if isinstance(value, str):
        return substituted(value, values)
    if isinstance(value, list):
        if depth > DEPTH_MAX:
            raise InvalidArgument(f"args: nested deeper than {DEPTH_MAX}")
        return [_resolved(item, values, depth + 1) for item in value]
    if isinstance(value, dict):
        return _resolved_table(value, values, depth + 1)
    return value


def substituted(text: str, values: Mapping[str, str]) -> str:
    """Text with every known `{key}` replaced; what was put in is not looked at again."""
    return _KEY.sub(lambda found: values.get(found[1], found[0]), text)


def keys_of(texts: Iterable[str]) -> list[str]:
    """The `{key}`s in texts, each once, in order."""
    return list(dict.fromkeys(key for text in texts for key in _KEY.findall(text)))


# The tree


def _drop_unreachable(plan: Plan, parsed: dict[str, tuple[str, Service]]) -> None:
    """Drop what is on or behind an unknown service or a cycle; the rest stays."""
    while True:
        unknown = {
            id: missing
            for id, (_, service) in parsed.items()
            if (
                missing := [
                    name for name in service.startup.after if name not in parsed and name not in SLICES
                ]
            )
        }
        for id, missing in unknown.items():
            file, _ = parsed.pop(id)
            is_dropped = missing[0] in plan.dropped
            plan.drop(file, id, f"after: {missing[0]!r} is {'dropped' if is_dropped else 'no service'}")
        if unknown:
            continue
        cycle = _cycle({id: service.startup.after for id, (_, service) in parsed.items()})
        if not cycle:
            return
        for id in cycle:
            file, _ = parsed.pop(id)
            plan.drop(file, id, f"after: a cycle of {', '.join(map(repr, cycle))}")


def _cycle(after: Mapping[str, Sequence[str]]) -> list[str]:
    """The ids of one cycle, [] when there is none. Every name in `after` is a key or a milestone."""
    done: set[str] = set()
    for first in after:
        path: dict[str, Iterable[str]] = {}
        stack = [(first, iter(after[first]))] if first not in done else []
        while stack:
            id, rest = stack[-1]
            path[id] = ()
            follower = next((name for name in rest if name in after and name not in done), None)
            if follower is None:
                done.add(id)
                path.pop(id)
                stack.pop()
            elif follower in path:
                ids = list(path)
                return ids[ids.index(follower) :]
            else:
                stack.append((follower, iter(after[follower])))
    return []


def _slices(after: Mapping[str, Sequence[str]]) -> dict[str, Slice]:
    """The slice of each service; `after` has no cycle. Nothing named means boot."""
    found: dict[str, int] = {name: number for number, name in enumerate(SLICES)}
    for first in after:
        stack = [first]
        while stack:
            id = stack[-1]
            names = after[id] or ("boot",)
            if missing := [name for name in names if name not in found]:
                stack += missing
                continue
            found[id] = max(found[name] for name in names)
            stack.pop()
    return {id: SLICES[found[id]] for id in after}
