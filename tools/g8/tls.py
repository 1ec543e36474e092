"""How the client proves a node, and itself to it (blocking: reads files)."""

import ssl
from typing import Any

from redis.asyncio import SSLConnection

from g8node.errors import InvalidArgument
from g8tools.g8.connection import TlsOptions


def context(options: TlsOptions) -> ssl.SSLContext | None:
    """What a Client wants; None without TLS. With `cacert`, that CA is trusted and no other."""
    if not options.on:
        return None
    try:
        made = ssl.create_default_context(cafile=options.cacert or None)
        if options.insecure:
            made.check_hostname = False
            made.verify_mode = ssl.CERT_NONE
        if options.certificate:
            made.load_cert_chain(options.certificate, options.key or None)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(filter(None, (options.cacert, options.certificate, options.key)))
        raise InvalidArgument(f"TLS: {files}: {error}") from error
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    return made


class ContextConnection(SSLConnection):
    """redis-py makes a context of its own from file names; this one uses ours."""

    def __init__(self, *, context: ssl.SSLContext, **options: Any) -> None:
        super().__init__(**options)
        self.ssl_context.context = context
