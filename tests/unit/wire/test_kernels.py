"""The compiled loops and their Python twins answer alike."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from g8node.wire import kernels

KEYS = st.binary(min_size=16, max_size=16)
WORDS = st.binary(min_size=8, max_size=400).map(lambda data: data[: len(data) // 4 * 4])
GEAR = random.Random(1).randbytes(2048)


def test_the_compiled_ones_are_there() -> None:
    assert kernels.COMPILED


@given(WORDS, KEYS)
@settings(max_examples=60, deadline=None)
def test_xxtea_answers_alike_and_can_be_undone(data: bytes, key: bytes) -> None:
    sealed = kernels.xxtea(data, key, False)
    assert sealed == kernels.slow_xxtea(data, key, False)
    assert kernels.xxtea(sealed, key, True) == kernels.slow_xxtea(sealed, key, True) == data


@pytest.mark.parametrize("xxtea", [kernels.xxtea, kernels.slow_xxtea])
@pytest.mark.parametrize(
    ("data", "key"), [(b"1234", b"k" * 16), (b"123456789", b"k" * 16), (b"12345678", b"k")]
)
def test_xxtea_refuses(xxtea: object, data: bytes, key: bytes) -> None:
    with pytest.raises(ValueError, match="xxtea"):
        xxtea(data, key, True)  # type: ignore[operator]


@given(st.binary(max_size=600), st.integers(0, 64), st.integers(0, 300), st.integers(0, 300))
@settings(max_examples=60, deadline=None)
def test_cut_answers_alike(data: bytes, least: int, more: int, most: int) -> None:
    sizes = (least, least + more, least + more + most)
    masks = (0x3F << 40, 0x7 << 40)
    got = kernels.cut(data, GEAR, *sizes, *masks)
    assert got == kernels.slow_cut(data, GEAR, *sizes, *masks)
    assert got <= len(data)
    assert got > 0 or not min(len(data), sizes[2])


@pytest.mark.parametrize("cut", [kernels.cut, kernels.slow_cut])
@pytest.mark.parametrize(("gear", "sizes"), [(b"", (1, 2, 3)), (GEAR, (3, 2, 1)), (GEAR, (-1, 2, 3))])
def test_cut_refuses(cut: object, gear: bytes, sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="cut"):
        cut(b"data", gear, *sizes, 1, 1)  # type: ignore[operator]


@pytest.mark.parametrize("blank", [kernels.blank, bytearray])
def test_blank_is_so_many_bytes_that_can_be_written(blank: Callable[[int], bytearray]) -> None:
    for size in (0, 1, 5000):
        made = blank(size)
        assert (type(made), len(made)) == (bytearray, size)
        made[:] = b"x" * size
    with pytest.raises(ValueError, match="negative count"):
        blank(-1)
    with pytest.raises((MemoryError, OverflowError)):
        blank(1 << 63)


@given(st.lists(st.binary(max_size=400), max_size=5), st.binary(max_size=64))
@settings(max_examples=60, deadline=None)
def test_blake2b_each_answers_alike(data: list[bytes], key: bytes) -> None:
    assert kernels.blake2b_each(data, key) == kernels.slow_blake2b_each(data, key)


def test_blake2b_each_takes_whole_blocks_and_refuses_long_keys() -> None:
    data = [GEAR[:128], memoryview(GEAR)[:256], bytearray(GEAR)]
    for key in (b"", b"k" * 64):
        assert kernels.blake2b_each(data, key) == kernels.slow_blake2b_each(data, key)
    for each in (kernels.blake2b_each, kernels.slow_blake2b_each):
        with pytest.raises(ValueError, match="key"):
            each(data, b"k" * 65)
        with pytest.raises(TypeError):
            each(["text"], b"")  # type: ignore[list-item]


@given(st.binary(max_size=100))
@settings(max_examples=60, deadline=None)
def test_crc32c_answers_alike(data: bytes) -> None:
    assert kernels.crc32c(data) == kernels.slow_crc32c(data)


def test_crc32c_is_castagnolis() -> None:
    assert kernels.crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283
