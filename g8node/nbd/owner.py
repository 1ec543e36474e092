"""What a connection needs of its server (pure)."""

import ssl
from typing import TYPE_CHECKING, Protocol

from g8node.nbd.export import Exports
from g8node.wire.nbd_handshake import TlsMode

if TYPE_CHECKING:
    from g8node.nbd.connection import Connection


class Owner(Protocol):
    """See `Server`."""

    exports: Exports
    tls: ssl.SSLContext | None
    tls_mode: TlsMode
    handshake_s: float

    def joined(self, connection: "Connection") -> bool:
        """False when there are too many."""

    def left(self, connection: "Connection") -> None: ...
