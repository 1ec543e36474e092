"""TLS contexts of the gate (blocking: files and keys; call it off the loop).

With a configured certificate there is one context. Without, an own CA is made at each start: its key exists
in memory only, and its certificate is written to `run/gate/ca.pem`. The server's key passes through a memfd,
because OpenSSL's loader wants a file.

The own certificates are valid from 2020 to 2120 whatever the node's clock says: clients compare them with
their own. While our clock has not been set, the dates of client certificates are not compared with it.
"""

import datetime
import ipaddress
import os
import socket
import ssl
from typing import Any, Final

from g8node import config
from g8node.config import RoleName
from g8node.errors import InvalidArgument
from g8node.jobs.model import Caller
from g8node.jobs.tokens import CLOCK_SET_S
from g8node.linux.guard import off_loop

_NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, which `ssl` has no name for
_FROM: Final = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_UNTIL: Final = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)
_ALWAYS: Final = ("localhost", "127.0.0.1", "::1", "zero-os.gig.tech")  # the last is the original's
_NAME_CHARS: Final = 128


class Tls:
    """The gate's one server context."""

    def __init__(self, settings: config.Gate, folder: str) -> None:
        self._settings = settings
        self._folder = folder
        self.context: ssl.SSLContext | None = None

    @off_loop
    def open(self, host: str) -> str:
        """Load or make what is needed; the fingerprint (SHA-256) of what clients can pin.

        InvalidArgument names the setting that is wrong.
        """
        settings = self._settings
        if bool(settings.tls_certificate) != bool(settings.tls_key):
            raise InvalidArgument("gate.tls_certificate and gate.tls_key: expected both or none")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0  # sessions are long; a resumed one would only keep state
        try:
            if settings.tls_certificate:
                fingerprint = _fingerprint_of_file(settings.tls_certificate)
                context.load_cert_chain(settings.tls_certificate, settings.tls_key, password=_no_password)
            else:
                fingerprint = self._load_own(context, host)
            if settings.tls_client_ca:
                context.load_verify_locations(settings.tls_client_ca)
                context.verify_mode = ssl.CERT_OPTIONAL
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            files = settings.tls_certificate, settings.tls_key, settings.tls_client_ca, *settings.tls_names
            raise InvalidArgument(f"TLS: {', '.join(filter(None, files))}: {error}") from error
        self.context = context
        return fingerprint

    def _load_own(self, context: ssl.SSLContext, host: str) -> str:
        authority = Authority(f"g8node {socket.gethostname()}")
        _load(context, authority.leaf((*_ALWAYS, socket.gethostname(), host, *self._settings.tls_names)))
        os.makedirs(self._folder, mode=0o755, exist_ok=True)
        partial = f"{self._folder}/.ca.pem"
        with open(partial, "wb") as file:
            file.write(authority.pem)
        os.replace(partial, f"{self._folder}/ca.pem")
        return authority.fingerprint

    def heed_clock(self, now_s: float) -> None:
        """From the next handshake on, compare dates with the clock if it has been set."""
        if self.context is not None and (flags := _flags(self.context, now_s)) != self.context.verify_flags:
            self.context.verify_flags = flags


def _flags(context: ssl.SSLContext, now_s: float) -> ssl.VerifyFlags:
    bits = int(context.verify_flags) & ~_NO_CHECK_TIME
    return ssl.VerifyFlags(bits if now_s >= CLOCK_SET_S else bits | _NO_CHECK_TIME)


class Authority:
    """A CA of one life of the node."""

    def __init__(self, name: str) -> None:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding

        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _subject(name)
        self._certificate = _builder(self._name, self._name, self._key.public_key(), is_authority=True).sign(
            self._key, hashes.SHA256()
        )
        self.pem: bytes = self._certificate.public_bytes(Encoding.PEM)
        self.fingerprint: str = self._certificate.fingerprint(hashes.SHA256()).hex()

    def leaf(self, names: tuple[str, ...]) -> bytes:
        """A server certificate, our own one and the key, as PEM."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_subject("g8node gate"), self._name, key.public_key(), is_authority=False)
        usage = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH])
        usable = [name for name in dict.fromkeys(names) if name and name.isascii()]
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in usable])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        for extension in (usage, alternatives, issuer):
            builder = builder.add_extension(extension, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        chain: bytes = certificate.public_bytes(Encoding.PEM) + self.pem
        return chain + secret


def _subject(name: str) -> Any:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, name[:64])])


def _builder(subject: Any, issuer: Any, public_key: Any, *, is_authority: bool) -> Any:
    from cryptography import x509

    usage = x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(
            x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), critical=True
        )
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _general_name(name: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name.partition("%")[0]))
    except ValueError:
        return x509.DNSName(name)


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """Give OpenSSL a chain with its key that stays in memory."""
    fd = os.memfd_create("gate", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(pem)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _no_password() -> str:
    raise InvalidArgument("gate.tls_key: expected a key without a passphrase")


def _fingerprint_of_file(path: str) -> str:
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509 import load_pem_x509_certificate

    try:
        with open(path, "rb") as file:
            return load_pem_x509_certificate(file.read(1 << 20)).fingerprint(hashes.SHA256()).hex()
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"gate.tls_certificate: {path}: {error}") from error


def certificate_caller(certificate: Any, roles: dict[str, RoleName]) -> Caller | None:
    """Who a verified client certificate (`getpeercert()`) speaks of; None when it has no role."""
    if not certificate:
        return None
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    if len(names) != 1 or len(names[0]) > _NAME_CHARS or not names[0].isprintable():
        return None
    role = roles.get(names[0]) or roles.get("*")
    return Caller(f"certificate:{names[0]}", role) if role else None
