"""`g8 flist` keygen, sign and verify (blocking)."""

import hashlib
import os
from pathlib import Path
from typing import Annotated

import typer

from g8node.errors import AlreadyExists, InvalidArgument, PermissionDenied
from g8tools.flist.common import JsonOption, read
from g8tools.g8 import console

FileArgument = Annotated[Path, typer.Argument(metavar="FLIST", help="The flist file.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (keygen, sign, verify):
        app.command()(command)


def keygen(
    out: Annotated[Path, typer.Argument(help="The private key to write; its public half goes to OUT.pub.")],
    json: JsonOption = False,
) -> None:
    """Make a key that signs flists."""
    from g8node.flist.signature import load_key, new_key, public_hex

    if out.exists():
        raise AlreadyExists(f"{out} exists")
    pem = new_key()
    with open(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
    public = public_hex(load_key(pem))
    Path(f"{out}.pub").write_text(public + "\n")
    text = f'{out}: private, keep it\n{out}.pub: {public}\nof a node: [g8ufs] allowed_keys = ["{public}"]'
    console.show({"key": str(out), "public": public}, json=json, text=text)


def sign(
    flist: FileArgument,
    key: Annotated[Path, typer.Option(help="The private key, as `g8 flist keygen` makes it.")],
    json: JsonOption = False,
) -> None:
    """Sign an flist: writes FLIST.sig beside it."""
    from g8node.flist.merkle import check
    from g8node.flist.signature import SUFFIX, load_key
    from g8node.flist.signature import sign as signed

    root = check(read(str(flist)))
    out = Path(f"{flist}{SUFFIX}")
    data = signed(load_key(key.read_bytes()), _digest(flist), root)
    partial = Path(f"{out}.part")
    partial.write_bytes(data)
    partial.rename(out)
    console.show({"signature": str(out), "merkle": root.hex()}, json=json, text=f"{out}: root {root.hex()}")


def verify(
    flist: FileArgument,
    key: Annotated[list[str], typer.Option(help="Allowed public key: 64 hex digits, or a file with them.")],
    json: JsonOption = False,
) -> None:
    """Check the signature beside an flist against allowed keys, as a node would."""
    from g8node.flist.merkle import check
    from g8node.flist.signature import SIGNATURE_BYTES_MAX, SUFFIX, parse_public
    from g8node.flist.signature import verify as verified

    allowed = frozenset(parse_public(_key_text(each)) for each in key)
    root = check(read(str(flist)))
    try:
        with open(f"{flist}{SUFFIX}", "rb") as source:
            data = source.read(SIGNATURE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise PermissionDenied(f"{flist} is not signed: there is no {flist}{SUFFIX}") from None
    try:
        by = verified(data, allowed, _digest(flist).hex(), root.hex())
    except PermissionDenied as error:
        raise PermissionDenied(f"{flist} is refused: {error.message}") from None
    console.show({"flist": str(flist), "key": by}, json=json, text=f"{flist}: signed by {by}")


def _key_text(given: str) -> str:
    if not Path(given).is_file():
        return given
    text = Path(given).read_text()
    if "PRIVATE" in text:
        raise InvalidArgument(f"{given} is a private key; give {given}.pub")
    return text


def _digest(path: Path) -> bytes:
    with open(path, "rb") as source:
        return hashlib.file_digest(source, lambda: hashlib.blake2b(digest_size=32)).digest()
