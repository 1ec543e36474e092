"""docs/acceptance.md names tests that exist."""

import re
from pathlib import Path

import pytest

from tests.support.acceptance import SCENARIOS

TOP = Path(__file__).resolve().parents[2]
ROWS = [
    line.strip("|").rsplit("|", 1)
    for line in (TOP / "docs/acceptance.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| line", "|---"))
]


@pytest.mark.parametrize(("line", "named"), ROWS, ids=[line.strip()[:40] for line, _ in ROWS])
def test_line_has_a_test(line: str, named: str) -> None:
    scenarios = re.findall(r"scenario (\w+)", named)
    tests = re.findall(r"(\S+\.py)::(\w+)", named)
    assert scenarios or tests, line
    assert set(scenarios) <= {scenario.__name__ for scenario in SCENARIOS}
    for file, name in tests:
        assert re.search(rf"^(async )?def {name}\(", (TOP / "tests" / file).read_text(), re.M), name


def test_every_scenario_belongs_to_a_line() -> None:
    text = (TOP / "docs/acceptance.md").read_text()
    assert not [scenario.__name__ for scenario in SCENARIOS if f"scenario {scenario.__name__}" not in text]
