"""The TLS of an NBD server (blocking: it reads files)."""

import ssl
import sys
from typing import Any, Final

from g8node.errors import InvalidArgument

_KEYS_BYTES_MAX: Final = 1 << 20
_KEY_MIN: Final = 16
_KEY_MAX: Final = 256
_IDENTITY_MAX: Final = 128
_CIPHERS: Final = "kECDHEPSK:kDHEPSK:kPSK:!NULL:!3DES:!RC4"


def context_of(certificate: str, key: str, client_ca: str, psk: str) -> ssl.SSLContext | None:
    """What the files say: TLS with a certificate, with pre-shared keys, or none at all (None).

    InvalidArgument names the files.
    """
    if bool(certificate) != bool(key):
        raise InvalidArgument("tls_certificate and tls_key: expected both or none")
    if not psk:
        return server_context(certificate, key, client_ca) if certificate else None
    if certificate:
        raise InvalidArgument("tls_psk: expected no certificate beside pre-shared keys")
    return psk_context(psk)


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


def psk_context(path: str) -> ssl.SSLContext:
    """TLS 1.2 with the pre-shared keys of a file, see `read_keys`. InvalidArgument if Python cannot do it."""
    keys = read_keys(path)
    context: Any = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if not hasattr(context, "set_psk_server_callback"):
        version = ".".join(map(str, sys.version_info[:2]))
        raise InvalidArgument(
            f"tls_psk: Python {version} cannot do TLS with pre-shared keys, 3.13 can",
            hint="use a certificate",
        )
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_psk_server_callback(lambda identity: keys.get(identity or "", b""))
    made: ssl.SSLContext = context
    return made


def read_keys(path: str) -> dict[str, bytes]:
    """By identity, of a file of `identity:hex digits` lines as GnuTLS' psktool writes it.

    InvalidArgument names the file and the line, and tells no key.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_KEYS_BYTES_MAX + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "expected UTF-8"
        raise InvalidArgument(f"tls_psk: {path}: {reason}") from None
    if len(text) > _KEYS_BYTES_MAX:
        raise InvalidArgument(f"tls_psk: {path}: more than {_KEYS_BYTES_MAX} bytes")
    keys = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        identity, _, digits = line.strip().partition(":")
        try:
            key = bytes.fromhex(digits)
        except ValueError:
            key = b""
        if not 0 < len(identity.encode()) <= _IDENTITY_MAX or not _KEY_MIN <= len(key) <= _KEY_MAX:
            expected = f"identity:key, the key of {2 * _KEY_MIN} to {2 * _KEY_MAX} hex digits"
            raise InvalidArgument(f"tls_psk: {path}: line {number}: expected {expected}")
        keys[identity] = key
    if not keys:
        raise InvalidArgument(f"tls_psk: {path}: no key")
    return keys
