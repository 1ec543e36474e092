"""`python -m tests.bench [--only REGEX]`: run the benches whose row names match."""

import argparse
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.bench import boot, containers, g8ufs
from tests.bench.rows import Row, save, table

OUT = Path(__file__).resolve().parent.parent.parent / "build/bench.json"

# A bench yields the rows of one set-up; `wanted` tells which of its rows to measure.
Bench = Callable[[Callable[[str], bool], Path], Iterable[Row]]
BENCHES: tuple[Bench, ...] = (boot.bench, containers.bench, g8ufs.bench)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", default="", help="measure the rows whose name matches this regex")
    pattern = re.compile(parser.parse_args().only)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="g8-bench-") as folder:
        for bench in BENCHES:
            for row in bench(lambda name: bool(pattern.search(name)), Path(folder)):
                rows.append(row)
                print(table([row]).splitlines()[1], flush=True)
                save(rows, OUT)
    print("\n" + table(rows))


main()
