"""docs/commands.md is what the commands say of themselves."""

from pathlib import Path

from g8tools import docgen

PAGE = Path(__file__).resolve().parents[3] / "docs/commands.md"


def test_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == docgen.page(), "run `make docs`"


def test_page_names_kind_and_default() -> None:
    text = docgen.page()
    assert "| `mode` | one of a, a+, r, r+, w, w+, x, x+ | required |" in text
    assert "| `recursive` | bool | `false` |" in text
