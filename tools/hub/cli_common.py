"""What the commands of `g8 hub` share (blocking)."""

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from g8node.errors import InvalidArgument
from g8tools.g8 import console

TokenFile = Annotated[Path | None, typer.Option("--token-file", help="File whose first line is the token.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.", callback=console.json_asked)]


def read_token(file: Path | None) -> str:
    """The token of a file's first line that is no comment, without its user; "" without a file."""
    if file is None:
        return ""
    for line in file.read_text("utf-8").splitlines():
        if (word := line.strip()) and not word.startswith("#"):
            return word.partition(":")[0]
    raise InvalidArgument(f"{file}: no token in it")


def store_address(text: str) -> str:
    """The address of a chunk store; a path is that of a folder."""
    return text if "://" in text else f"dir://{quote(str(Path(text).absolute()))}"
