"""Reading a zstd stream in bounded memory, by the system's libzstd (blocking).

cramjam decodes whole frames only, and Python has zstd from 3.14 on. Every Debian has libzstd.so.1, since dpkg
needs it.
"""

import ctypes
import functools
from typing import IO, Final

from g8node.linux.guard import off_loop

_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = b"\x2a\x4d\x18"  # behind a byte 0x50 to 0x5f; pzstd begins with such a frame
_LIBRARY: Final = "libzstd.so.1"
_WINDOW_LOG: Final = 27
"""Memory that a frame may ask for: 128 MiB, what `zstd --long` makes."""
_WINDOW_LOG_MAX: Final = 100  # ZSTD_d_windowLogMax
_PIECE: Final = 1 << 17


class ZstdError(Exception):
    """The stream is damaged, ends too early or wants too much memory."""


class _Buffer(ctypes.Structure):
    """ZSTD_inBuffer and ZSTD_outBuffer."""

    _fields_ = (("start", ctypes.c_void_p), ("size", ctypes.c_size_t), ("at", ctypes.c_size_t))


def is_zstd(start: bytes) -> bool:
    """Whether a file that begins with these four bytes is a row of zstd frames."""
    return start == _MAGIC or (start[1:] == _SKIPPABLE and start[0] >> 4 == 5)


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(_LIBRARY)
    pointer, buffer = ctypes.c_void_p, ctypes.POINTER(_Buffer)
    for name, result, arguments in (
        ("ZSTD_createDCtx", pointer, ()),
        ("ZSTD_freeDCtx", ctypes.c_size_t, (pointer,)),
        ("ZSTD_DCtx_setParameter", ctypes.c_size_t, (pointer, ctypes.c_int, ctypes.c_int)),
        ("ZSTD_decompressStream", ctypes.c_size_t, (pointer, buffer, buffer)),
        ("ZSTD_isError", ctypes.c_uint, (ctypes.c_size_t,)),
        ("ZSTD_getErrorName", ctypes.c_char_p, (ctypes.c_size_t,)),
    ):
        call = getattr(library, name)
        call.restype, call.argtypes = result, arguments
    return library


class ZstdReader:
    """The plain bytes of a file of zstd frames. A context manager; the file stays the caller's to close.

    Reading raises ZstdError; OSError: there is no libzstd, or the file cannot be read.
    """

    @off_loop
    def __init__(self, source: IO[bytes]) -> None:
        self._library = _library()
        self._source = source
        self._context = self._library.ZSTD_createDCtx()
        self._library.ZSTD_DCtx_setParameter(self._context, _WINDOW_LOG_MAX, _WINDOW_LOG)
        self._out = ctypes.create_string_buffer(_PIECE)
        self._held = b""  # what _in points into
        self._in = _Buffer(None, 0, 0)
        self._plain = b""
        self._whole = True  # between two frames
        self._full = False  # there is more without more input

    def __enter__(self) -> "ZstdReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._library.ZSTD_freeDCtx(self._context)
        self._context = None

    def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end."""
        pieces = [self._plain]
        held = len(self._plain)
        while held < size and (piece := self._next()):
            pieces.append(piece)
            held += len(piece)
        data = b"".join(pieces)
        self._plain = data[size:]
        return data[:size]

    def _next(self) -> bytes:
        """The next plain bytes, at most _PIECE of them; nothing at the end."""
        piece = b""
        while not piece:
            if self._in.at == self._in.size and not self._full:
                self._held = self._source.read(_PIECE)
                if not self._held:
                    break
                start = ctypes.cast(ctypes.c_char_p(self._held), ctypes.c_void_p)
                self._in = _Buffer(start, len(self._held), 0)
            piece = self._step()
        if not piece and not self._whole:
            raise ZstdError("zstd stream ends too early")
        return piece

    def _step(self) -> bytes:
        out = _Buffer(ctypes.addressof(self._out), _PIECE, 0)
        left = self._library.ZSTD_decompressStream(self._context, ctypes.byref(out), ctypes.byref(self._in))
        if self._library.ZSTD_isError(left):
            reason: bytes = self._library.ZSTD_getErrorName(left)
            raise ZstdError(f"zstd stream: {reason.decode()}")
        self._whole = left == 0
        self._full = out.at == out.size and not self._whole
        return self._out.raw[: out.at] if out.at else b""
