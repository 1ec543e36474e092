"""Mutated conditions and service tables: each is taken, or refused in words that name the file.

G8NODE_FUZZ_INPUTS sets how many of each are tried.
"""

import contextlib
import os
import random
from pathlib import Path

from g8node.boot import services
from g8node.boot.extensions import process_of
from g8node.errors import InvalidArgument
from g8node.wire import condition

INPUTS = int(os.environ.get("G8NODE_FUZZ_INPUTS", "2000"))
STARTUP = Path(__file__).resolve().parents[2] / "systemd-free-init/startup"
CONDITION = " and (true, or( not(user-input) , false ) , development)"
PIECES = ["and(", "or(", "not(", ")", ",", " ", "true", "false", "a-b", "é", "|", "\0", "(", "-", "_9"]
TOML_PIECES = [
    *PIECES,
    "\n[startup.x]\n",
    "\n[extension.y]\n",
    "\nname = 'bash'\n",
    "\nafter = ['x', 'init']\n",
    "\nafter = 'net'\n",
    "\nargs.a = {b = ['{HOME}', 1e999, nan]}\n",
    "\nargs.'not(q)|w' = 1979-05-27T07:32:00Z\n",
    "\ncondition = 'or('\n",
    "\nbinary = 'x'\n",
    "\nrunning_match = '[[:digit:]'\n",
    "\nrunning_delay = -99999999999999999999\n",
    '"',
    "'''",
    "{",
    "}",
    "[",
    "]",
    "=",
]


def mutated(rng: random.Random, text: str, pieces: list[str]) -> str:
    for _ in range(rng.randint(1, 5)):
        at, cut = rng.randint(0, len(text)), rng.choice((0, 0, 1, 4, 30))
        text = text[:at] + rng.choice((rng.choice(pieces), chr(rng.randint(0, 0x2FF)))) + text[at + cut :]
    return text


def test_mutated_conditions_hold_or_are_refused() -> None:
    rng = random.Random(1)
    text = CONDITION
    for _ in range(INPUTS):
        text = mutated(rng, text if len(text) < 300 and rng.random() < 0.8 else CONDITION, PIECES)
        with contextlib.suppress(InvalidArgument):
            assert condition.parse(text).holds({"development"}) in (True, False)


def test_mutated_tables_make_services_or_problems() -> None:
    rng = random.Random(2)
    seeds = [path.read_text() for path in sorted(STARTUP.glob("*.toml"))]
    seeds.append("[startup.x]\nname = 'bash'\n[startup.z]\nname = 'y'\nafter = ['x', 'net']\n")
    for _ in range(INPUTS):
        files = [(name, mutated(rng, rng.choice(seeds), TOML_PIECES)) for name in ("a.toml", "b.toml")]
        plan = services.load(files, parameters={"hostname": "h"}, environ={"HOME": "/"})
        assert all(problem.startswith(("a.toml: ", "b.toml: ")) for problem in plan.problems)
        assert not set(plan.services) & set(plan.dropped) or plan.problems
        for extension in plan.extensions.values():
            process_of(extension, b'{"a": 1}')


def test_shipped_tables_have_no_problem() -> None:
    files = [(path.name, path.read_text()) for path in sorted(STARTUP.glob("*.toml"))]
    plan = services.load(files, parameters={}, environ={})
    assert plan.problems == []
    assert {id: service.slice for id, service in plan.services.items()} == {
        "syslogd": "init",
        "klogd": "init",
        "crash": "init",
        "hostname": "init",
        "time": "net",
        "protect": "boot",
    }
