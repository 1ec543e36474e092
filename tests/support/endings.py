"""Writers of numbered blocks whose server or machine ends at any moment, and what must be left then."""

import itertools
import random
import threading
from collections.abc import Sequence

from g8node.wire import nbd
from tests.support.vdisks import Client

BLOCK = 4096
BLOCKS = 256
PART = BLOCK * BLOCKS
_END_S = 120.0


class Writer(threading.Thread):
    """Writes numbered blocks of its own part until the connection breaks; `durable` is what must stay."""

    def __init__(self, client: Client, part: int, written: list[int], dice: random.Random) -> None:
        super().__init__()
        self._client = client
        self._part = part
        self._dice = dice
        self.written = written
        self.durable = list(written)
        self.flushes = 0

    def run(self) -> None:
        try:
            for step in itertools.count():
                self._step(step)
        except OSError:
            pass
        finally:
            self._client.close()

    def _step(self, step: int) -> None:
        index = self._dice.randrange(BLOCKS)
        number = self.written[index] + 1
        self.written[index] = number
        fua = nbd.CMD_FLAG_FUA if step % 7 == 0 else 0
        self._client.write(self._part * PART + index * BLOCK, _pattern(self._part, index, number), fua)
        if fua:
            self.durable[index] = number
        if step % 5 == 0:
            self._client.flush()
            self.durable = list(self.written)
            self.flushes += 1

    def lost(self, client: Client) -> list[str]:
        """What is not as promised; what was found becomes `written`."""
        self.join(_END_S)
        assert not self.is_alive()
        whole = client.read(self._part * PART, PART)
        problems = []
        for index in range(BLOCKS):
            found = whole[index * BLOCK : (index + 1) * BLOCK]
            number = int(found[16:32]) if found[16:32].isdigit() else 0
            least, most = self.durable[index], self.written[index]
            if not least <= number <= most:
                problems.append(f"part {self._part} block {index}: {number} is not in {least} to {most}")
            if found != (_pattern(self._part, index, number) if number else bytes(BLOCK)):
                problems.append(f"part {self._part} block {index}: torn")
            self.written[index] = number
        return problems


def _pattern(part: int, index: int, number: int) -> bytes:
    return b"%08d%08d%016d" % (part, index, number) * (BLOCK // 32)


def lost(client: Client, writers: Sequence[Writer]) -> list[str]:
    """Of all their parts; the client is closed."""
    try:
        return [problem for writer in writers for problem in writer.lost(client)]
    finally:
        client.close()
