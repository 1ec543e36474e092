"""Zeros, which take no space (pure)."""

from typing import Final

ZEROS: Final = bytes(1 << 20)


def is_zero(data: bytes | bytearray | memoryview) -> bool:
    """Quick for what is not: mostly its first and last byte tell."""
    if data[0] or data[-1]:
        return False
    size = len(data)
    return all(
        bytes(data[at : at + len(ZEROS)]) == ZEROS[: min(size - at, len(ZEROS))]
        for at in range(0, size, len(ZEROS))
    )
