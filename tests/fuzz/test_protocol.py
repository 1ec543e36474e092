"""Mutated RESP streams, command JSON and process output: each is understood, or refused in words.

G8NODE_FUZZ_INPUTS sets how many of each are tried.
"""

import contextlib
import itertools
import os
import random

import msgspec

from g8node.errors import InvalidArgument
from g8node.jobs.model import Command, decode_command
from g8node.jobs.registry import Registry, decode_arguments
from g8node.main import all_commands
from g8node.wire.levels import LevelParser
from g8node.wire.resp import Limits, ProtocolError, RequestParser
from tests.support.badargs import legal

INPUTS = int(os.environ.get("G8NODE_FUZZ_INPUTS", "2000"))
REGISTRY = Registry(all_commands())
LIMITS = Limits(args=12, arg_bytes=64, total_bytes=200)

REQUESTS = (
    b"*3\r\n$6\r\nLRANGE\r\n$8\r\nresult:1\r\n$2\r\n-1\r\n*1\r\n$4\r\nPING\r\n"
    b'ECHO "a b"\r\n*2\r\n$4\r\nECHO\r\n$3\r\na\r\n\r\n'
)
RESP_PIECES = [
    b"*",
    b"$",
    b"\r\n",
    b"\n",
    b"0",
    b"-1",
    b"9",
    b'"',
    b"'",
    b"\\",
    b"*1\r\n",
    b"$5\r\n",
    b"\0",
    b"\xff",
    b" ",
    b"*9999999999999999999999\r\n",
    b"$64\r\n",
    b"a" * 70,
]
COMMAND = (
    b'{"id":"a","command":"core.system","arguments":{"name":"true","args":["x"]},"queue":"q","max_time":3,'
    b'"max_restart":2,"recurring_period":1,"stream":true,"tags":["a"],"stats_interval":0,"log_levels":[1],'
    b'"caller":{"name":"x","role":"admin"}}'
)
COMMAND_PIECES = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b":",
    b",",
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"9" * 30,
    b'"ID":"b"',
    b'"id":""',
    b'"id":null',
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b'"arguments":null',
    b'"Tags":1',
    b":flag",
    b"[" * 50,
    b'"caller":{}',
]
OUTPUT = b"hello\n2::x\n3:::block\n:::\nplain 20:::\n20::{}\n\xc3\xa9\n30:::\nx\n:::\n7::"
OUTPUT_PIECES = [
    b"1::",
    b"20:::",
    b":::\n",
    b"\n",
    b"\n:::\n",
    b"::",
    b":",
    b"9",
    b"99999::",
    b"123456::",
    b"\xc3",
    b"\xa9",
    b"\0",
    b"\r",
    b"x" * 40,
]


def mutated(rng: random.Random, data: bytes, pieces: list[bytes]) -> bytes:
    for _ in range(rng.randint(1, 5)):
        at, cut = rng.randint(0, len(data)), rng.choice((0, 0, 1, 4, 30))
        data = data[:at] + rng.choice((rng.choice(pieces), bytes([rng.randrange(256)]))) + data[at + cut :]
    return data


def cuts(rng: random.Random, data: bytes) -> list[bytes]:
    """data as it may arrive: whole, in a few reads, or byte by byte."""
    kind = rng.randrange(8)
    places = range(len(data)) if not kind else sorted(rng.randint(0, len(data)) for _ in range(kind))
    return [data[a:b] for a, b in itertools.pairwise([0, *places, len(data)])]


def evolved(rng: random.Random, seed: bytes, data: bytes, pieces: list[bytes]) -> bytes:
    """The last input mutated once more, or the seed again."""
    return mutated(rng, data if len(data) < 400 and rng.random() < 0.8 else seed, pieces)


def requests(reads: list[bytes]) -> tuple[list[list[bytes]], str]:
    parser, found = RequestParser(LIMITS), []
    try:
        for read in reads:
            parser.feed(read)
            while (request := parser.next()) is not None:
                assert request
                assert sum(map(len, request)) <= LIMITS.total_bytes
                found.append(request)
    except ProtocolError:
        return found, "refused"
    return found, "waits" if parser.buffered else ""


def test_mutated_streams_are_the_same_requests_in_any_packets() -> None:
    rng, data = random.Random(1), REQUESTS
    for _ in range(INPUTS):
        data = evolved(rng, REQUESTS, data, RESP_PIECES)
        assert requests(cuts(rng, data)) == requests([data]), data


def test_mutated_commands_are_decoded_or_refused() -> None:
    rng, data = random.Random(2), COMMAND
    for _ in range(INPUTS):
        data = evolved(rng, COMMAND, data, COMMAND_PIECES)
        with contextlib.suppress(InvalidArgument):
            command = decode_command(data)
            assert isinstance(command, Command)
            assert command.id
            assert min(command.max_time, command.max_restart, command.recurring_period) >= 0
            again = decode_command(msgspec.json.encode(command))
            assert msgspec.json.encode(again) == msgspec.json.encode(command)


def said(reads: list[bytes]) -> list[tuple[int, str]]:
    """What a parser makes of the reads; plain text that came in several messages joined."""
    parser = LevelParser(1, max_bytes=1 << 20)
    messages = [message for read in reads for message in parser.feed(read)] + parser.close()
    joined: list[tuple[int, str]] = []
    for level, text in messages:
        if level == 1 and joined and joined[-1][0] == 1:
            joined[-1] = (1, joined[-1][1] + text)
        else:
            joined.append((level, text))
    return joined


def test_mutated_output_is_the_same_messages_in_any_reads() -> None:
    rng, data = random.Random(3), OUTPUT
    for _ in range(INPUTS):
        data = evolved(rng, OUTPUT, data, OUTPUT_PIECES)
        assert said(cuts(rng, data)) == said([data]), data
        short = LevelParser(1, max_bytes=64)
        for read in cuts(rng, data):
            short.feed(read)
            assert len(short._body) <= 64 + len(read)
        short.close()


def test_mutated_arguments_of_every_command_are_decoded_or_refused() -> None:
    rng = random.Random(4)
    kinds = [kind for spec in map(REGISTRY.get, REGISTRY.names()) if (kind := spec.arguments) is not None]
    seeds = [(kind, msgspec.json.encode(legal(kind))) for kind in kinds]
    for kind, seed in itertools.islice(itertools.cycle(seeds), INPUTS):
        with contextlib.suppress(InvalidArgument):
            assert isinstance(decode_arguments(mutated(rng, seed, COMMAND_PIECES), kind), kind)
