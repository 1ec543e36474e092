"""Direct commands of the gate (pure): `redis-cli bash 'script="ls /"'` to a job, and its result to a reply.

Words that begin with `--` come first and are about the job: `--id=`, `--queue=`, `--max_time=`, `--stream`,
and `--text`, which answers with what the process printed instead of the result's JSON. The others are
arguments.
"""

import re
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from g8node.errors import InvalidArgument
from g8node.jobs.model import Caller, Command, Result, check_id
from g8node.jobs.registry import Spec, arguments_from_words
from g8node.wire.resp import Error, Reply

_NUMBER = re.compile(r"[0-9]{1,18}")
_OPTIONS = {"id": str, "queue": str, "max_time": int, "stream": bool, "text": bool}


def direct_command(spec: Spec, words: list[bytes], caller: Caller) -> tuple[Command, bool]:
    """The command (its id empty unless given), and whether its output is wanted as text.

    InvalidArgument names the word that is wrong.
    """
    options: dict[str, Any] = {}
    words = list(words)
    while words and words[0].startswith(b"--"):
        name, value = _option(words.pop(0))
        options[name] = value
    as_text = bool(options.pop("text", False))
    id = options.pop("id", "")
    check_id(id)
    arguments = Raw(arguments_from_words(spec, words))
    return Command(id=id, command=spec.name, arguments=arguments, caller=caller, **options), as_text


def _option(word: bytes) -> tuple[str, Any]:
    name, equals, text = word[2:].decode("utf-8", "replace").partition("=")
    kind = _OPTIONS.get(name)
    if kind is None:
        raise InvalidArgument(f"unknown option --{name[:40]}", hint=f"expected --{', --'.join(_OPTIONS)}")
    if kind is bool:
        return name, not equals or text == "true"
    if kind is int:
        if not _NUMBER.fullmatch(text):
            raise InvalidArgument(f"--{name}: expected a number of seconds, not {text[:40]!r}")
        return name, int(text)
    return name, text


def direct_reply(result: Result, *, as_text: bool) -> Reply:
    """A builtin's JSON value or error; a process's whole result, since its exit code matters too."""
    if result.streams is not UNSET:
        return result.stdout if as_text else msgspec.json.encode(result)
    if result.ok:
        return result.data
    return Error(f"ERR {result.code} {_message(result)}")


def _message(result: Result) -> str:
    try:
        text = msgspec.json.decode(result.data)
    except msgspec.MsgspecError:
        text = result.data
    return str(text) or result.state
