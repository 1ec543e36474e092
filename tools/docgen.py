"""docs/commands.md from the registry: `python -m g8tools.docgen [FILE]` (blocking).

The page is made from the same declarations as `core.help`, so nothing is said twice.
"""

import inspect
import json
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from g8node.jobs import arguments
from g8node.jobs.commands.inside import DISPATCHED
from g8node.jobs.registry import Registry, Spec
from g8node.main import all_commands

_HEAD = """# Commands

Made by `make docs` from the code, as `redis-cli core.help` answers it; a test holds the two together.

A command is a job: pushed as JSON to `core:default`, or called by its name at the gate, with one JSON object
or `key=value` words: `redis-cli -p 6379 filesystem.list path=/etc`. The role is the least a caller needs.
Absent and `null` are the same; a wrong argument is the error 400 with its name.
"""


def page() -> str:
    """The whole page."""
    registry = Registry(all_commands())
    parts = [_HEAD]
    for space, names in groupby(registry.names(), key=lambda name: name.partition(".")[0]):
        parts.append(f"## {space}\n")
        parts += [_command(registry.get(name)) for name in names]
    return "\n".join(parts)


def _command(spec: Spec) -> str:
    where = "host and containers" if spec.name in DISPATCHED else "host"
    text = inspect.getdoc(spec.handler) or ""
    lines = [f"### {spec.name}", "", text, "", f"Role {spec.role.name.lower()}; {where}.", ""]
    rows = arguments.described(spec.arguments)
    if rows:
        lines += ["| argument | kind | default | |", "|---|---|---|---|"]
        lines += [_row(row) for row in rows]
        lines.append("")
    return "\n".join(lines)


def _row(row: dict[str, Any]) -> str:
    default = "required" if row["required"] else _default(row["default"])
    cells = (f"`{row['name']}`", row["kind"], default, row["text"])
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _default(value: Any) -> str:
    return "" if value is None else f"`{json.dumps(value)}`"


def run(argv: list[str]) -> None:
    if argv:
        Path(argv[0]).write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")


if __name__ == "__main__":
    run(sys.argv[1:])
