"""What a program says of the libraries it is linked with."""

from hypothesis import given, settings
from hypothesis import strategies as st

from g8node.wire.elf import linked

HEAD = b"\x7fELF" + bytes(600)


def test_a_real_program_names_its_loader_and_libraries() -> None:
    with open("/usr/bin/python3", "rb") as program:
        found = linked(program.read(512 << 10))
    assert found is not None
    assert found[0].startswith(b"ld-")
    assert b"libc.so.6" in found
    assert len(found) == len(set(found))


def test_names_stand_between_zeros() -> None:
    words = [b"libm.so.6", b"libstdc++.so.6", b"ld-musl-x86_64.so.1", b"libssl.so.1.1"]
    assert linked(HEAD + b"\0" + b"\0".join(words) + b"\0") == words
    others = [b"xlibm.so.6", b"libm.so", b"libm.so.6x", b"lib m.so.6", b"main", b"lib" + b"n" * 80 + b".so.1"]
    assert linked(HEAD + b"\0" + b"\0".join(others) + b"\0") == []


def test_other_files_are_no_programs() -> None:
    assert linked(b"#!/bin/sh\0libm.so.6\0") is None
    assert linked(b"") is None


def test_names_are_few() -> None:
    many = b"\0".join(b"lib%d.so.1" % n for n in range(1000))
    assert len(linked(HEAD + many + b"\0") or ()) == 256


@given(st.binary(max_size=200))
@settings(max_examples=100)
def test_anything_is_looked_through(data: bytes) -> None:
    assert linked(b"\x7fELF" + data) is not None
