"""Commands as clients write them."""

import json
import time
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


@pytest.mark.parametrize(
    "text", ["I" * 4_000_000, '"I" ' * 500_000, '"I"' + " " * 2_000_000], ids=["one string", "many", "blanks"]
)
def test_command_with_many_capitals_is_decoded_in_linear_time(text: str) -> None:
    start = time.process_time()
    assert decoded(id="1", command="bash", arguments={"script": text}).command == "bash"
    assert time.process_time() - start < 20


def test_command_id_that_ends_like_a_flag_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="id: expected one that does not end in ':flag'"):
        decoded(id="1:flag", command="core.ping")


def test_command_id_of_unreasonable_length_is_refused() -> None:
    assert decoded(id="x" * 4096, command="core.ping").id == "x" * 4096
    with pytest.raises(InvalidArgument, match="id: expected at most 4096 characters, got 4097"):
        decoded(id="x" * 4097, command="core.ping")


def test_command_listing_omits_zero_valued_fields() -> None:
    shown = decoded(id="1", command="bash", arguments={"script": "x"}, max_time=5).listed()
    assert set(shown) == {"id", "command", "arguments", "queue", "stream", "tags", "max_time"}
