"""Test vectors and schema from docs/formats/flist.md, and the schema as the original had it (blocking)."""

import functools
import re
from pathlib import Path
from typing import Any

import capnp  # type: ignore[import-untyped]  # has no stubs

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "formats" / "flist.md"


@functools.cache
def vectors() -> dict[str, bytes]:
    """Every `golden <name> <hex>` line."""
    return {name: bytes.fromhex(value) for name, value in re.findall(r"(?m)^golden (\S+) +(\S+)$", _text())}


def _text() -> str:
    return DOCUMENT.read_text()


def schema_text() -> str:
    """The document's schema."""
    found = re.search(r"(?s)```capnp\n(.*?)```", _text())
    assert found
    return found[1]


def original_schema_text() -> str:
    """The schema before our fields were appended: what an old reader was compiled with."""
    text = re.sub(r"(?s)struct (Xattr|Extra) \{.*?\}[^\n]*\n", "", schema_text())
    return re.sub(r"\n[^\n;]*; ?\}? +# g8[^\n]*", " }", text)


def load(text: str, folder: Path) -> Any:
    """Compile a schema with the reference implementation."""
    path = folder / "schema.capnp"
    path.write_text(text)
    # A parser of its own: the global one refuses two versions of one file id.
    return capnp.SchemaParser().load(str(path))
