"""Startup tables: slices, conditions, substitution, and errors that drop one entry and name file and key."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g8node.boot import services
from g8node.boot.extensions import process_of
from g8node.boot.services import Extension, Plan
from g8node.errors import InvalidArgument


def plan(*texts: str, parameters: Mapping[str, str] | None = None, **environ: str) -> Plan:
    files = [(f"{number}.toml", text) for number, text in enumerate(texts)]
    return services.load(files, parameters=parameters or {}, environ=environ)


def tree(**after: list[str]) -> Plan:
    entries = [f"[startup.{id}]\nname = 'x'\nafter = {json.dumps(names)}" for id, names in after.items()]
    return plan("\n".join(entries))


def test_service_without_after_is_of_the_boot_slice() -> None:
    loaded = plan("[startup.a]\nname = 'x'")
    assert loaded.services["a"].slice == "boot"
    assert not loaded.problems


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (["init"], "init"),
        (["net"], "net"),
        (["boot"], "boot"),
        (["init", "net"], "net"),
        (["early"], "init"),
        (["early", "net"], "net"),
        (["late", "early"], "boot"),
    ],
)
def test_slice_is_the_last_of_what_a_service_comes_after(after: list[str], expected: str) -> None:
    assert tree(early=["init"], late=[], s=after).services["s"].slice == expected


def test_only_dependencies_of_the_same_slice_are_waited_for() -> None:
    loaded = tree(early=["init"], a=["net", "early"], b=["a", "early", "net"])
    assert loaded.services["b"].after == ("a",)
    assert loaded.services["a"].after == ()


def test_missing_dependency_drops_only_the_affected() -> None:
    loaded = tree(good=[], bad=["nowhere"], behind=["bad"], other=["good"])
    assert set(loaded.services) == {"good", "other"}
    assert loaded.problems == [
        "0.toml: startup.bad: after: 'nowhere' is no service, dropped",
        "0.toml: startup.behind: after: 'bad' is dropped, dropped",
    ]


def test_cycle_drops_only_the_affected() -> None:
    loaded = tree(a=["b"], b=["c"], c=["a"], behind=["a", "good"], good=["init"], self=["self"])
    assert set(loaded.services) == {"good"}
    assert "a cycle of 'a', 'b', 'c'" in loaded.dropped["b"]
    assert "a cycle of 'self'" in loaded.dropped["self"]
    assert "'a' is dropped" in loaded.dropped["behind"]


def test_long_chain_is_no_recursion() -> None:
    chain = {f"s{n}": [f"s{n - 1}"] for n in range(1, 900)}
    loaded = tree(s0=["init"], **chain)
    assert loaded.services["s899"].slice == "init"


def test_last_file_wins_a_service_and_the_first_an_extension() -> None:
    text = "[startup.a]\nname = '{0}'\n[extension.e]\nbinary = '{0}'"
    loaded = plan(text.format("one"), text.format("two"))
    assert loaded.services["a"].startup.name == "two"
    assert loaded.extensions["e"].binary == "one"
    assert loaded.problems == [
        "1.toml: extension.e: the name is taken, or there are 1000 extensions; dropped"
    ]


ARGS = {
    "text": "a {x} {unknown} {x}",
    "list": ["{x}", 1, ["{HOME}"]],
    "table": {"deep": {"{x}": "{x}"}},
    "number": 7,
    "zerotier|port": "zt",
    "not(zerotier)|port": "all",
}


@pytest.mark.parametrize(("zerotier", "port"), [(True, "zt"), (False, "all")])
def test_arguments_are_decided_and_substituted_at_any_depth(zerotier: bool, port: str) -> None:
    found = services.resolved(ARGS, {"x": "1", "HOME": "/root"} | ({"zerotier": ""} if zerotier else {}))
    assert found == {
        "text": "a 1 {unknown} 1",
        "list": ["1", 1, ["/root"]],
        "table": {"deep": {"{x}": "1"}},
        "number": 7,
        "port": port,
    }


def test_substitution_is_one_pass() -> None:
    assert services.substituted("{a}", {"a": "{b}", "b": "no"}) == "{b}"


def test_bare_flag_decides_a_conditional_argument() -> None:
    """The original's first pass knew only the environment and dropped these."""
    text = (
        "[startup.a]\nname = 'x'\n[startup.a.args]\n'development|flag' = true\n'not(development)|other' = 1"
    )
    assert plan(text, parameters={"development": ""}).services["a"].args == {"flag": True}
    assert plan(text).services["a"].args == {"other": 1}


def test_environment_wins_over_a_kernel_parameter() -> None:
    text = "[startup.a]\nname = 'x'\nargs.v = '{k} {p}'"
    assert plan(text, parameters={"k": "no", "p": "1"}, k="yes").services["a"].args["v"] == "yes 1"


def test_environment_that_is_no_utf8_still_makes_arguments() -> None:
    assert plan("[startup.a]\nname = 'x'\nargs.v = '{k}'", k="\udcff").services["a"].args == {"v": "?"}


@pytest.mark.parametrize(("condition", "wanted"), [("", True), ("debug", True), ("not(debug)", False)])
def test_condition_of_a_service_is_about_kernel_parameters(condition: str, wanted: bool) -> None:
    text = f"[startup.a]\nname = 'x'\ncondition = '{condition}'"
    assert plan(text, parameters={"debug": ""}).services["a"].wanted is wanted


@pytest.mark.parametrize(
    ("delay", "match", "expected"), [(0, "", 2), (5, "", 5), (-1, "", None), (5, "up", None)]
)
def test_running_delay_and_match(delay: int, match: str, expected: float | None) -> None:
    text = f"[startup.a]\nname = 'x'\nrunning_delay = {delay}\nrunning_match = '{match}'"
    assert plan(text).services["a"].delay_s == expected


def test_running_match_knows_the_posix_classes() -> None:
    loaded = plan("[startup.a]\nname = 'x'\nrunning_match = '^up[[:space:]]+[[:digit:]]{2}$'")
    assert loaded.services["a"].match is not None
    assert loaded.services["a"].match.search("up \t42")


def test_keys_match_without_case_and_underscores() -> None:
    loaded = plan("[startup.a]\nName = 'x'\nrunningdelay = 3\nMaxRestart = 4")
    assert (loaded.services["a"].startup.running_delay, loaded.services["a"].startup.max_restart) == (3, 4)


@pytest.mark.parametrize(
    ("entry", "key"),
    [
        ("name = 1", "name"),
        ("running_delay = 1", "name"),
        ("name = ''", "name"),
        ("name = 'x'\nafter = 'net'", "after"),
        ("name = 'x'\nargs = 1", "args"),
        ("name = 'x'\ncondition = 'and('", "condition"),
        ("name = 'x'\nprotected = 1", "protected"),
        ("name = 'x'\nmax_restart = -1", "max_restart"),
        ("name = 'x'\nrunning_match = '('", "running_match"),
        ("name = 'x'\nargs.'xor(a)|k' = 1", "args.xor(a)|k"),
        ("name = 'x'\nargs.n = " + "[" * 40 + "]" * 40, "args"),
        ("name = 'x'\ndeadline = 0", "deadline"),
    ],
)
def test_bad_entry_is_dropped_naming_file_and_key(entry: str, key: str) -> None:
    loaded = plan(f"[startup.bad]\n{entry}\n[startup.good]\nname = 'x'")
    assert set(loaded.services) == {"good"}
    [problem] = loaded.problems
    assert problem.startswith("0.toml: startup.bad: ")
    assert key in problem


def test_unknown_key_is_told_and_ignored() -> None:
    loaded = plan("[startup.a]\nname = 'x'\nmust_exit = true\n[services]\n[extension]\ne = 1")
    assert set(loaded.services) == {"a"}
    assert loaded.problems == [
        "0.toml: services: unknown key, dropped",
        "0.toml: extension.e: expected a table, dropped",
        "0.toml: startup.a.must_exit: unknown key, ignored",
    ]


@pytest.mark.parametrize("text", ["[startup", "a = 1979-99-99", "a = " + "[" * 5000])
def test_file_that_is_no_toml_is_dropped_alone(text: str) -> None:
    loaded = plan(text, "[startup.a]\nname = 'x'")
    assert set(loaded.services) == {"a"}
    assert loaded.problems[0].startswith("0.toml: ")


def test_number_of_services_is_bounded() -> None:
    loaded = plan("\n".join(f"[startup.s{n}]\nname = 'x'" for n in range(services.COUNT_MAX + 1)))
    assert len(loaded.services) == services.COUNT_MAX
    assert "1000 services already" in loaded.dropped["s1000"]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


_KEYS = st.sampled_from([*services.Startup.__struct_fields__, "binary", "env", "MAX_restart", "x|y", "not(x"])
_VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats() | st.text(alphabet="ab{}()|,[]:*é", max_size=8) | _KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), st.dictionaries(_KEYS, _VALUES, max_size=4), max_size=3))
def test_any_table_makes_services_or_problems(entries: dict[str, Any]) -> None:
    text = "\n".join(f"startup.{id} = {_toml(entry)}" for id, entry in entries.items())
    loaded = plan(text.replace("NaN", "nan").replace("Infinity", "inf"))
    assert set(loaded.services) | set(loaded.dropped) == set(entries) or loaded.problems
    assert all(problem.startswith("0.toml: ") for problem in loaded.problems)
    for service in loaded.services.values():
        json.dumps(service.args, default=str)


@settings(max_examples=40, deadline=None)
@given(st.text())
def test_any_text_is_loaded(text: str) -> None:
    assert all(problem.startswith("0.toml: ") for problem in plan(text).problems)


MOUNT = Extension(binary="mount", args=("-t", "{fs}", "{disk}", "{n}"), env={"A": "1"}, cwd="/mnt")


def test_extension_puts_the_callers_arguments_in() -> None:
    process = process_of(MOUNT, b'{"fs": "ext4", "n": 5, "stdin": "{fs}", "disk": null, "more": [1]}')
    assert process.argv == ["mount", "-t", "ext4", "{disk}", "5"]
    assert (process.stdin, process.env, process.cwd) == (b"{fs}", {"A": "1"}, "/mnt")


@pytest.mark.parametrize("arguments", [b"[1]", b"x", b"\xff"])
def test_extension_refuses_what_is_no_object(arguments: bytes) -> None:
    with pytest.raises(InvalidArgument, match="arguments"):
        process_of(MOUNT, arguments)
