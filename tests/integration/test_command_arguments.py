"""Whatever is wrong with an argument: the error 400 with the field's name, and no harm done."""

import json
from collections.abc import Iterator

import pytest
import redis

from g8node.jobs.registry import Registry
from g8node.main import all_commands
from tests.support.badargs import bad, undeclared
from tests.support.daemon import Daemon, daemon

pytestmark = [pytest.mark.root, pytest.mark.fuse]

REGISTRY = Registry(all_commands())
TAKING = [name for name in REGISTRY.names() if REGISTRY.get(name).arguments is not None]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("node")) as running:
        yield running
        assert "Traceback" not in running.log()


def test_every_field_of_every_command_declares_what_is_legal() -> None:
    """A Literal, a bool, a range of an int, or a text's kind, which tests/support/badargs.py must know."""
    silent = {}
    for name in TAKING:
        arguments = REGISTRY.get(name).arguments
        assert arguments is not None
        if fields := undeclared(arguments):
            silent[name] = fields
    assert not silent, "take a kind of g8node/jobs/arguments.py or kinds.py, or add one"


@pytest.mark.parametrize("name", TAKING)
def test_wrong_argument_is_400_with_its_name(node: Daemon, name: str) -> None:
    arguments = REGISTRY.get(name).arguments
    assert arguments is not None
    cases = list(bad(arguments))
    assert cases
    with node.gate() as gate:
        for case in cases:
            with pytest.raises(redis.ResponseError) as answer:
                gate.execute_command(name, json.dumps(case.arguments))
            assert str(answer.value).startswith("400 "), (case, str(answer.value))
            assert case.field in str(answer.value), (case, str(answer.value))


@pytest.mark.parametrize("name", TAKING)
def test_wrong_argument_of_a_pushed_job_is_400_with_its_name(node: Daemon, name: str) -> None:
    arguments = REGISTRY.get(name).arguments
    assert arguments is not None
    case = next(bad(arguments))
    result = node.job(name, case.arguments)
    assert (result["state"], result["code"]) == ("ERROR", 400)
    assert case.field in json.loads(result["data"])


@pytest.mark.parametrize("block", ["*", "YQ=", "é", "YQ==YQ=="])
def test_block_that_is_no_base64_is_400(node: Daemon, block: str) -> None:
    result = node.job("filesystem.write", {"fd": "0-0", "block": block})
    assert (result["code"], "block" in result["data"]) == (400, True)


@pytest.mark.parametrize("types", [["nothing"], ["43"], [0, 43], ["-1"]])
def test_dmi_type_that_does_not_exist_is_400(node: Daemon, types: list[object]) -> None:
    result = node.job("info.dmi", {"types": types})
    assert (result["code"], "types" in result["data"]) == (400, True)


def test_help_tells_the_kind_of_every_argument(node: Daemon) -> None:
    (described,) = node.direct("core.help", command="filesystem.chmod")
    assert [(row["name"], row["kind"]) for row in described["arguments"]] == [
        ("path", "path"),
        ("mode", "int 0..4095"),
        ("recursive", "bool"),
    ]
    assert {row["command"] for row in node.direct("core.help")} >= set(REGISTRY.names())
