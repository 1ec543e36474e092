"""vdisk.*: vdisks on clusters, served by `g8 vdisk serve --config`, under fio."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.bench.host import package, run
from tests.bench.rows import Row, single
from tests.support.clusters import redis_servers, yaml_of
from tests.support.vdisks import ServedConfig

_READS = "vdisk.redis_randread4k_iops"
_SIZE = 256 << 20
_RUN_S = 10


def bench(wanted: Callable[[str], bool], folder: Path) -> Iterable[Row]:
    if wanted(_READS):
        yield _randread(folder / "vdisk")


def _randread(folder: Path) -> Row:
    """All blocks are there and random; nothing of ours keeps any."""
    with redis_servers(folder, 4) as servers, ServedConfig(folder, yaml_of(servers)).running() as served:
        fill = ["nbdkit", "--exit-with-parent", "random", f"size={_SIZE}"]
        run("nbdcopy", "--", "[", *fill, "]", served.uri())
        out = folder / "fio.json"
        words = ["fio", "--name=job", "--ioengine=nbd", f"--uri={served.uri()}", f"--size={_SIZE}"]
        words += ["--rw=randread", "--bs=4k", "--iodepth=64", "--time_based", f"--runtime={_RUN_S}"]
        run(*words, "--ramp_time=2", f"--output={out}", "--output-format=json")
        text = out.read_text()
        iops = json.loads(text[text.index("{") :])["jobs"][0]["read"]["iops"]
        for server in servers:
            with server.client() as client:
                assert client.info("commandstats")["cmdstat_hmget"]["calls"] > 0
    return single(_READS, "IOPS", "higher", iops, depth=64, servers=4, fio=package("fio"))
