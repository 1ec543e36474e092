"""TLS contexts of the gate (blocking: files and keys; call it off the loop).

With a configured certificate there is one context. Without, an own CA is made at each start: its key exists
in memory only, its certificate is written to `run/gate/ca.pem`, and each local address that a client dials
gets a leaf certificate that names it. Leaf keys pass through a memfd, because OpenSSL's loader wants a file.

The own certificates are valid from 2020 to 2120 whatever the node's clock says: clients compare them with
their own. While our clock has not been set, the dates of client certificates are not compared with it.
"""

import datetime
import ipaddress
import os
import socket
import ssl
from collections import OrderedDict
from typing import Any, Final

from g8node import config
from g8node.config import RoleName
from g8node.errors import InvalidArgument
from g8node.jobs.model import Caller
from g8node.jobs.tokens import CLOCK_SET_S
from g8node.linux.guard import off_loop

_NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, which `ssl` has no name for
_CONTEXTS: Final = 64
_FROM: Final = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_UNTIL: Final = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)
_ALWAYS: Final = ("localhost", "127.0.0.1", "::1", "zero-os.gig.tech")  # the last is the original's
_NAME_CHARS: Final = 128


class Contexts:
    """Server contexts by the local address that a client dialled."""

    def __init__(self, settings: config.Gate, folder: str) -> None:
        self._settings = settings
        self._folder = folder
        self._authority: Authority | None = None
        self._made: OrderedDict[tuple[str, bool], ssl.SSLContext] = OrderedDict()

    @off_loop
    def open(self) -> str:
        """Load or make what is needed; the fingerprint (SHA-256) of what clients can pin.

        InvalidArgument names the setting that is wrong.
        """
        settings = self._settings
        if bool(settings.tls_certificate) != bool(settings.tls_key):
            raise InvalidArgument("gate.tls_certificate and gate.tls_key: expected both or none")
        if settings.tls_certificate:
            fingerprint = _fingerprint_of_file(settings.tls_certificate)
        else:
            self._authority = Authority(f"g8node {socket.gethostname()}")
            fingerprint = self._authority.fingerprint
            self._write_certificate(self._authority.pem)
        self.context("127.0.0.1", 0.0)  # so that a bad file is found now
        return fingerprint

    def _write_certificate(self, pem: bytes) -> None:
        os.makedirs(self._folder, mode=0o755, exist_ok=True)
        partial = f"{self._folder}/.ca.pem"
        with open(partial, "wb") as file:
            file.write(pem)
        os.replace(partial, f"{self._folder}/ca.pem")

    def ready(self, address: str, now_s: float) -> ssl.SSLContext | None:
        """The context if it is made already; does not block."""
        return self._made.get(self._key(address, now_s))

    def _key(self, address: str, now_s: float) -> tuple[str, bool]:
        return ("" if self._authority is None else address, now_s >= CLOCK_SET_S)

    @off_loop
    def context(self, address: str, now_s: float) -> ssl.SSLContext:
        """A context whose certificate names that address."""
        key = self._key(address, now_s)
        context = self._make(address, is_clock_set=key[1])
        self._made[key] = context
        while len(self._made) > _CONTEXTS:
            self._made.popitem(last=False)
        return context

    def _make(self, address: str, *, is_clock_set: bool) -> ssl.SSLContext:
        settings = self._settings
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0  # sessions are long; a resumed one would only keep state
        try:
            if self._authority is None:
                context.load_cert_chain(settings.tls_certificate, settings.tls_key, password=_no_password)
            else:
                names = (*_ALWAYS, socket.gethostname(), address, *settings.tls_names)
                _load(context, self._authority.leaf(names))
            if settings.tls_client_ca:
                context.load_verify_locations(settings.tls_client_ca)
                context.verify_mode = ssl.CERT_OPTIONAL
        except (OSError, ssl.SSLError) as error:
            files = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
            raise InvalidArgument(f"TLS: {', '.join(filter(None, files))}: {error}") from error
        if not is_clock_set:
            context.verify_flags |= _NO_CHECK_TIME
        return context


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
