"""`python -m tests.bench [--only REGEX]`: run the benches whose row names match."""

import argparse
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from g8node.linux.namespace import prepare_agent_namespace
from tests.bench import (
    boot,
    containers,
    crowd,
    flist,
    g8ufs,
    gate,
    jobs,
    lazy,
    nbd,
    podman,
    rows,
    stores,
    vdisk,
)
from tests.bench.rows import Row, save, table

OUT = Path(__file__).resolve().parent.parent.parent / "build/bench.json"

# A bench yields the rows of one set-up; `wanted` tells which of its rows to measure.
Bench = Callable[[Callable[[str], bool], Path], Iterable[Row]]
BENCHES: tuple[Bench, ...] = (
    jobs.bench,
    gate.bench,
    containers.bench,
    podman.bench,
    crowd.bench,
    g8ufs.bench,
    lazy.bench,
    flist.bench,
    nbd.bench,
    vdisk.bench,
    stores.bench,
    boot.bench,
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--only", default="", help="measure the rows whose name matches this regex")
    parser.add_argument("--pairs", type=int, default=rows.PAIRS, help="ABBA pairs a row; fewer to try out")
    parser.add_argument("--attempts", type=int, default=rows.ATTEMPTS, help="measure noisy rows so often")
    args = parser.parse_args()
    pattern, rows.PAIRS, rows.ATTEMPTS = re.compile(args.only), args.pairs, args.attempts
    # Both sides run in it: the OCI runtimes see version 2 control groups, and no mount outlives us.
    prepare_agent_namespace()
    measured: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="g8-bench-") as folder:
        for bench in BENCHES:
            for row in bench(lambda name: bool(pattern.search(name)), Path(folder)):
                measured.append(row)
                print(table([row]).splitlines()[1], flush=True)
                save(measured, OUT)
    print("\n" + table(measured))


main()
