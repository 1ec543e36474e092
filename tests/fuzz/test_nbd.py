"""NBD from strangers: a million inputs, made of what real clients send."""

import json
import random
from pathlib import Path

import pytest

from g8node.wire import nbd
from g8node.wire import nbd_handshake as hs
from g8node.wire.nbd import ProtocolError, RequestParser, Rules
from g8node.wire.nbd_handshake import AskExport, AskExports, Description, Handshake
from tests.support.nbd import CLIENT_FLAGS, contexts, go, option, request

EXPORT = Description(size=1 << 30, flags=0x16D)
RECORDED: dict[str, str] = json.loads(Path(__file__).with_name("nbd_handshakes.json").read_text())
"""What each client said to our server up to its first request, in hex, as a proxy between them saw it."""
HANDSHAKES = [
    *map(bytes.fromhex, RECORDED.values()),
    # What none of them says.
    CLIENT_FLAGS + go("vd", kind=hs.OPT_INFO) + contexts("vd", kind=hs.OPT_LIST_META_CONTEXT),
    CLIENT_FLAGS + option(hs.OPT_EXPORT_NAME, b"vd"),
]


def mangled(dice: random.Random, seed: bytes) -> bytes:
    data = bytearray(seed)
    for _ in range(dice.randrange(4)):
        what, at = dice.randrange(4), dice.randrange(len(data) + 1)
        if what == 0 and at < len(data):
            data[at] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        elif what == 1:
            del data[at : at + dice.randrange(9)]
        elif what == 2:
            data[at:at] = dice.randbytes(dice.randrange(9))
        else:
            data[at:at] = data[: dice.randrange(40)]
    return bytes(data)


def shake(data: bytes, tls: hs.TlsMode) -> None:
    machine = Handshake(tls=tls)
    machine.feed(data)
    try:
        while (event := machine.next()) is not None:
            if isinstance(event, AskExports):
                machine.answer_exports([("vd", "")])
            elif isinstance(event, AskExport):
                machine.answer_export(EXPORT if event.name == "vd" else None)
    except ProtocolError:
        pass
    assert len(machine.output) < 1 << 20


def transmit(dice: random.Random, data: bytes, extended: bool) -> None:
    parser = RequestParser(extended=extended, payload_max=1 << 16)
    rules = Rules(size=1 << 30, structured=extended, extended=extended, payload_max=1 << 16)
    cut = dice.randrange(len(data) + 1)
    try:
        for one in (*parser.feed(data[:cut]), *parser.feed(data[cut:])):
            if rules.refusal(one) == 0 and one.kind not in (nbd.CMD_DISC, nbd.CMD_FLUSH):
                assert one.length > 0
                assert one.offset + one.length <= rules.size
                assert one.kind != nbd.CMD_WRITE or (
                    one.payload is not None and len(one.payload) == one.length
                )
    except ProtocolError:
        pass


def fuzz(inputs: int) -> None:
    dice = random.Random(42)
    modes: tuple[hs.TlsMode, ...] = ("off", "optional", "required", "done")
    for number in range(inputs):
        if number % 2:
            shake(mangled(dice, dice.choice(HANDSHAKES)), dice.choice(modes))
        else:
            extended = dice.random() < 0.5
            stream = b"".join(
                request(
                    dice.randrange(9),
                    dice.choice((0, 512, (1 << 30) - 512, (1 << 64) - 512)),
                    flags=dice.choice((0, 1, 2, 32, 64)),
                    payload=bytes(dice.choice((0, 1, 512))),
                    extended=extended,
                )
                for _ in range(3)
            )
            transmit(dice, mangled(dice, stream), extended)


def test_thirty_thousand_inputs_do_no_harm() -> None:
    fuzz(30_000)


@pytest.mark.soak
def test_a_million_inputs_do_no_harm() -> None:
    fuzz(1_000_000)


@pytest.mark.parametrize("client", RECORDED)
def test_recorded_handshake_is_understood(client: str) -> None:
    """Otherwise it is a poor seed. Whoever wants TLS is refused, and leaves."""
    machine = Handshake(tls="off")
    machine.feed(bytes.fromhex(RECORDED[client]))
    asked = []
    while (event := machine.next()) is not None:
        asked.append(event)
        if isinstance(event, AskExports):
            machine.answer_exports([("vd", "")])
        elif isinstance(event, AskExport):
            machine.answer_export(EXPORT)
    assert asked or "tls" in client
