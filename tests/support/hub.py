"""A real Hub for tests: its own process, a port of the kernel's choice, tiny flists to publish on it."""

import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from g8node.flist.container import write_flist
from g8node.flist.tree import Flist, Node
from g8node.ids import ChunkId
from g8node.store.http import HttpStore
from g8node.store.web import WebAccess
from g8node.wire.chunk import encode
from g8node.wire.flist import Blocks

TOP = Path(__file__).resolve().parent.parent.parent
TOKEN = "test-token-of-anyone-0001"
USER_TOKEN = "test-token-of-alice-0002"
OTHER_TOKEN = "test-token-of-bob-000003"
OLD_TOKEN = "old-token-of-bob-00004"
_START_S = 90.0


class RunningHub(NamedTuple):
    url: str
    data: Path
    token_file: Path
    process: subprocess.Popen[str]

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def store(self, token: str = "") -> HttpStore:
        """Its chunks. It writes them through to the disk, and a busy one may take long."""
        return HttpStore(self.url, token=token, access=WebAccess(connect_timeout_s=60, read_timeout_s=60))


@contextmanager
def hub(folder: Path, *, read_only: bool = False, chunks: str = "") -> Iterator[RunningHub]:
    """`g8 hub serve` until the block ends; its state lies in folder/hub, its chunks there or in `chunks`."""
    tokens = folder / "tokens"
    users = f"{USER_TOKEN}:alice\n{OTHER_TOKEN}:bob:2999-12-31\n{OLD_TOKEN}:bob:2020-01-01\n"
    tokens.write_text(f"# of the tests\n{TOKEN}\n{users}")
    argv = [
        sys.executable, "-m", "g8tools.hub", "--data", str(folder / "hub"), "--listen", "127.0.0.1:0",
    ]  # fmt: skip
    argv += [] if read_only else ["--token-file", str(tokens)]
    if chunks:
        (folder / "stores").write_text(chunks)
        argv += ["--chunks-file", str(folder / "stores")]
    process = subprocess.Popen(argv, cwd=TOP, stdout=subprocess.PIPE, text=True)
    try:
        yield RunningHub(_ready(process), folder / "hub", tokens, process)
    finally:
        process.terminate()
        process.wait(60)
        assert process.stdout
        process.stdout.close()


def _ready(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    deadline = time.monotonic() + _START_S
    while select.select([process.stdout], [], [], max(0, deadline - time.monotonic()))[0]:
        line = process.stdout.readline()
        if line.startswith("hub ready: "):
            return line.removeprefix("hub ready: ").strip()
        assert line, f"the Hub ended with {process.wait(5)}"
    raise AssertionError("the Hub did not start in time")


def tiny_flist(path: Path, files: Mapping[str, bytes]) -> dict[ChunkId, bytes]:
    """Write an flist with these files in its root; the chunks it needs (one a file, of at most 512 KiB)."""
    chunks: dict[ChunkId, bytes] = {}
    root = Node(0o40755, children={})
    assert root.children is not None
    for name, plain in files.items():
        node = Node(0o100644, size=len(plain))
        if plain:
            encoded = encode(plain)
            chunks[encoded.id] = encoded.stored
            node.blocks = Blocks(encoded.id, encoded.key)
            node.blocks.sizes.append(len(plain))
        root.children[name.encode()] = node
    write_flist(Flist(root), str(path))
    return chunks
