"""The root over an flist: everything counts; and signatures over it."""

import dataclasses
import json
import stat
from array import array
from collections.abc import Callable

import pytest

from g8node.errors import InvalidArgument, PermissionDenied
from g8node.flist.image import build
from g8node.flist.merkle import check, merkle_root, sealed
from g8node.flist.signature import load_key, new_key, parse_public, public_hex, sign, verify
from g8node.flist.tree import Flist, Node
from g8node.wire.flist import Blocks, Codec
from g8node.wire.router import EVERY, Router, Rule


def sample() -> Flist:
    file = Node(stat.S_IFREG | 0o644, 1, 2, 3, 4, {b"user.a": b"b"}, 5)
    file.blocks = Blocks(b"i" * 32, b"k" * 32, array("I", [5]))
    link = Node(stat.S_IFLNK | 0o777, target=b"f", size=1)
    device = Node(stat.S_IFCHR | 0o600, rdev=(1, 3))
    folder = Node(stat.S_IFDIR | 0o755, children={b"l": link, b"n": device, b"again": file})
    root = Node(stat.S_IFDIR | 0o755, children={b"f": file, b"d": folder})
    return Flist(root, {"entrypoint": "[]"}, Router({"p": (Rule(EVERY, "zdb://h"),)}, ("p",)))


def at(flist: Flist, *names: bytes) -> Node:
    node = flist.root
    for name in names:
        node = (node.children or {})[name]
    return node


def unlinked(flist: Flist) -> None:
    children = at(flist, b"d").children or {}
    children[b"again"] = dataclasses.replace(children[b"again"])


def renamed(flist: Flist) -> None:
    children = at(flist, b"d").children or {}
    children[b"x"] = children.pop(b"l")


CHANGES: dict[str, Callable[[Flist], object]] = {
    "mode": lambda f: setattr(at(f, b"f"), "mode", stat.S_IFREG | 0o4755),
    "uid": lambda f: setattr(at(f, b"d"), "uid", 9),
    "gid": lambda f: setattr(f.root, "gid", 9),
    "seconds": lambda f: setattr(at(f, b"f"), "mtime_s", -9),
    "nanoseconds": lambda f: setattr(at(f, b"f"), "mtime_ns", 9),
    "xattrs": lambda f: setattr(at(f, b"f"), "xattrs", {b"user.a": b"c"}),
    "size": lambda f: setattr(at(f, b"f"), "size", 6),
    "chunk": lambda f: setattr(at(f, b"f").blocks, "ids", b"j" * 32),
    "key": lambda f: setattr(at(f, b"f").blocks, "keys", b"j" * 32),
    "codec": lambda f: setattr(at(f, b"f").blocks, "codec", Codec.V3),
    "target": lambda f: setattr(at(f, b"d", b"l"), "target", b"g"),
    "device": lambda f: setattr(at(f, b"d", b"n"), "rdev", (1, 5)),
    "removed": lambda f: (at(f, b"d").children or {}).pop(b"n"),
    "renamed": renamed,
    "hard link": unlinked,
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_the_tree_counts(change: str) -> None:
    flist = sample()
    before = merkle_root(flist)
    assert before == merkle_root(sample())
    CHANGES[change](flist)
    assert merkle_root(flist) != before


def test_metadata_and_router_count() -> None:
    flist = sample()
    roots = {
        merkle_root(flist),
        merkle_root(Flist(flist.root, {"entrypoint": "x"}, flist.router)),
        merkle_root(Flist(flist.root, flist.info, None)),
        merkle_root(Flist(flist.root, {"entry": "point[]"}, flist.router)),
    }
    assert len(roots) == 4


def test_changed_flist_is_refused_when_its_image_is_built() -> None:
    flist = sealed(sample())
    plan, _ = build(flist)
    assert plan.info["merkle"] == check(flist).hex()
    at(flist, b"f").mode |= stat.S_ISUID
    with pytest.raises(InvalidArgument, match="the flist was changed"):
        build(flist)


def test_seal_of_a_sealed_flist_is_the_same() -> None:
    assert sealed(sealed(sample())).info == sealed(sample()).info


KEY = load_key(new_key())
DIGEST, ROOT = b"d" * 32, b"m" * 32


def signed(**changes: object) -> bytes:
    return json.dumps(json.loads(sign(KEY, DIGEST, ROOT)) | changes).encode()


def test_signature_is_good() -> None:
    allowed = frozenset({public_hex(KEY), "0" * 64})
    assert verify(signed(), allowed, DIGEST.hex(), ROOT.hex()) == public_hex(KEY)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"x" * 5000, "limit"),
        (signed(version=2), "unknown version"),
        (signed(key="zz"), "names no key"),
        (signed(more=1), "cannot be read"),
        (signed(signature="00"), "is wrong"),
        (signed(signature="x"), "cannot be read"),
        (signed(digest="00" * 32), "is wrong"),
        (signed(merkle="00" * 32), "is wrong"),
        (sign(load_key(new_key()), DIGEST, ROOT), "not among the allowed"),
        (sign(KEY, b"e" * 32, ROOT), "of another flist"),
        (sign(KEY, DIGEST, b"e" * 32), "of another flist"),
    ],
)
def test_signature_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(PermissionDenied, match=message):
        verify(data, frozenset({public_hex(KEY)}), DIGEST.hex(), ROOT.hex())


@pytest.mark.parametrize("pem", [b"", b"text", new_key()[:60]])
def test_key_that_is_none_is_refused(pem: bytes) -> None:
    with pytest.raises(InvalidArgument, match="private key"):
        load_key(pem)


def test_key_of_another_kind_is_refused() -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(InvalidArgument, match="no Ed25519 key"):
        load_key(pem)


def test_public_key_is_64_digits() -> None:
    assert parse_public(f" {public_hex(KEY).upper()}\n") == public_hex(KEY)
    with pytest.raises(InvalidArgument, match="64 hex digits"):
        parse_public("abc")
