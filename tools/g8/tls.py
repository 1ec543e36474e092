"""How the client proves a node, and itself to it (blocking: reads files)."""

import ssl

from g8node.errors import InvalidArgument


def context(
    on: bool = True,
    *,
    cacert: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    verify: bool | None = None,
) -> ssl.SSLContext | None:
    """None without TLS. With `cacert` that CA is trusted and no other; without, the node is not verified
    unless `verify` asks for the system's CAs.
    """
    if not (on or cacert or cert):
        return None
    try:
        made = ssl.create_default_context(cafile=cacert or None)
        if not (bool(cacert) if verify is None else verify):
            made.check_hostname = False
            made.verify_mode = ssl.CERT_NONE
        if cert:
            made.load_cert_chain(cert, key or None)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(filter(None, (cacert, cert, key)))
        raise InvalidArgument(f"TLS: {files}: {error}") from error
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    return made
