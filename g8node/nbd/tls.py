"""The TLS of an NBD server (blocking: it reads files)."""

import ssl

from g8node.errors import InvalidArgument


def server_context(certificate: str, key: str, client_ca: str = "") -> ssl.SSLContext:
    """TLS 1.2 or newer with a PEM chain and its key; clients need a certificate of `client_ca` if given.

    InvalidArgument names the files.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
        if client_ca:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:
        files = ", ".join(filter(None, (certificate, key, client_ca)))
        raise InvalidArgument(f"TLS: {files}: {error}") from error
    return context
