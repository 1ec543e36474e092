"""What job.list and the audit log show of arguments."""

import msgspec
from msgspec import Raw

from g8node.jobs import discreet
from g8node.jobs.model import Command


def test_keys_and_passwords_are_not_shown_at_any_depth() -> None:
    given = {
        "nics": [{"type": "wireguard", "wireguard": {"private_key": "k", "peers": [{"preshared_key": "p"}]}}],
        "command": {"arguments": {"password": "x", "identity": ""}},
        "name": "token",
    }
    shown = msgspec.json.decode(Command.make("a", "corex.create", given).listed()["arguments"])
    assert shown == {
        "nics": [{"type": "wireguard", "wireguard": {"private_key": "…", "peers": [{"preshared_key": "…"}]}}],
        "command": {"arguments": {"password": "…", "identity": ""}},
        "name": "token",
    }


def test_other_arguments_stay_as_they_were_written() -> None:
    raw = Raw(b'{ "b": 1,  "a": "private_key" }')
    assert discreet.arguments(Raw(b'{"private_key": 1}')) == Raw(b'{"private_key":1}')
    assert discreet.arguments(raw) is not None
    assert msgspec.json.decode(discreet.arguments(raw)) == {"b": 1, "a": "private_key"}
    plain = Raw(b'{ "b": 1 }')
    assert discreet.arguments(plain) is plain
