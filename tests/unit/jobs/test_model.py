"""Commands as clients write them."""

import json
from typing import Any

import pytest

from g8node.errors import InvalidArgument
from g8node.jobs.model import decode_command


def decoded(**fields: Any) -> Any:
    return decode_command(json.dumps(fields).encode())


def test_command_null_equals_absent() -> None:
    names = ["command", "arguments", "queue", "max_time", "max_restart", "recurring_period", "stream", "tags"]
    assert decoded(id="1", **dict.fromkeys(names)) == decoded(id="1")


def test_command_unknown_fields_are_ignored_and_keys_match_in_any_case() -> None:
    command = decoded(ID="1", Command="core.ping", Max_Time=3, Arguments={"Name": "X"}, what={"A": 1})
    assert (command.id, command.command, command.max_time) == ("1", "core.ping", 3)
    assert json.loads(bytes(command.arguments)) == {"Name": "X"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"[]", "object"),
        (b'{"command":"core.ping"}', "without id"),
        (b'{"id":""}', "without id"),
        (b'{"id":null}', "without id"),
        (b'{"id":5}', "$.id"),
        (b'{"id":"1","max_time":"x"}', "$.max_time"),
        (b'{"id":"1","tags":[1]}', "$.tags[0]"),
        (b'{"id":"\xff"}', "JSON"),
        (b"[" * 100_000, "JSON"),
    ],
)
def test_command_bad_json_names_what_is_wrong(text: bytes, named: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        decode_command(text)
    assert named in str(raised.value)


def test_command_listing_omits_zero_valued_fields() -> None:
    shown = decoded(id="1", command="bash", arguments={"script": "x"}, max_time=5).listed()
    assert set(shown) == {"id", "command", "arguments", "queue", "stream", "tags", "max_time"}
