"""JSON web tokens as passwords of the gate (blocking: call it off the loop); spec core0-protocol 1.7.

A key decides the algorithm, never the token: P-384 public keys are for ES384, RSA public keys for RS256,
secrets for HS256. So a token cannot have a public key taken for a secret, and `none` is no algorithm at all.
PyJWT is imported when keys are loaded, not before.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from g8node import config
from g8node.errors import InvalidArgument, NodeError
from g8node.jobs.model import Caller, Role, RoleName

TOKEN_BYTES: Final = 8 << 10
CLOCK_SET_S: Final = 1_767_225_600
"""2026-01-01: a clock that shows less has not been set yet, and times are not compared with it."""

_KEY_BYTES: Final = 64 << 10
_KEYS: Final = 16
_SECRET_BYTES: Final = 32
_RSA_BITS: Final = 2048
_ORGANIZATIONS: Final = 4096
_NAME_CHARS: Final = 128
_CLAIMS: Final = ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")  # looked at here, not by PyJWT
_MEMBER: Final = "user:memberof:"
_ROLE_NAMES: Final[dict[str, RoleName]] = {"reader": "reader", "operator": "operator", "admin": "admin"}


class BadToken(NodeError):
    """A token that is refused; the message says why and is safe to show."""

    code = "permission_denied"
    status = 403


@dataclass(frozen=True)
class Tokens:
    """The keys and rules that tokens are checked with."""

    settings: config.Jwt
    organizations: Mapping[str, RoleName] = field(default_factory=dict)
    keys: tuple[tuple[str, Any], ...] = ()
    """(algorithm, key) pairs."""

    def caller(self, token: bytes, now_s: float) -> Caller:
        """Who holds the token. BadToken."""
        claims = self._claims(token)
        self._check_times(claims, now_s)
        self._check_audience(claims)
        role = self._role(claims)
        return Caller(f"jwt:{_name(claims)}", role)

    def _claims(self, token: bytes) -> dict[str, Any]:
        """The claims of a token whose signature one of our keys made."""
        import jwt

        if len(token) > TOKEN_BYTES:
            raise BadToken(f"longer than {TOKEN_BYTES} bytes")
        text = token.decode("ascii", "replace")
        try:
            header = jwt.get_unverified_header(text)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise BadToken("malformed") from error
        algorithm = header.get("alg")
        keys = [key for kind, key in self.keys if kind == algorithm]
        if not keys:
            raise BadToken("no key for its algorithm")
        if "crit" in header:
            raise BadToken("critical header fields are not understood")
        options: Any = {f"verify_{name}": False for name in _CLAIMS}
        for key in keys:
            try:
                return jwt.decode(text, key, algorithms=[str(algorithm)], options=options)
            except jwt.InvalidSignatureError:
                continue
            except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
                raise BadToken("malformed") from error
        raise BadToken("wrong signature")

    def _check_times(self, claims: dict[str, Any], now_s: float) -> None:
        expires, begins = _time(claims, "exp", math.inf), _time(claims, "nbf", -math.inf)
        if now_s < CLOCK_SET_S:
            return
        if now_s >= expires + self.settings.leeway_s:
            raise BadToken("expired")
        if now_s < begins - self.settings.leeway_s:
            raise BadToken("not valid yet")

    def _check_audience(self, claims: dict[str, Any]) -> None:
        wanted = self.settings.audience
        audience = claims.get("aud")
        if wanted and audience != wanted and not (isinstance(audience, list) and wanted in audience):
            raise BadToken("for another audience")

    def _role(self, claims: dict[str, Any]) -> RoleName:
        """What the organisations grant, lowered by the role claim if there is one."""
        role: RoleName = "admin"
        if self.organizations:
            granted = [self.organizations[name] for name in _members(claims) if name in self.organizations]
            if not granted:
                raise BadToken("of no organisation that may")
            role = max(granted, key=Role.named)
        claim = claims.get(self.settings.role_claim) if self.settings.role_claim else None
        if claim is None:
            if not self.organizations:
                raise BadToken("without a role")
            return role
        asked = _ROLE_NAMES.get(claim) if isinstance(claim, str) else None
        if asked is None:
            raise BadToken("with an unknown role")
        return min(role, asked, key=Role.named)


def looks_like_token(secret: bytes) -> bool:
    """Three parts: header (JSON as base64url), claims, signature."""
    return secret.startswith(b"eyJ") and secret.count(b".") == 2


def _members(claims: dict[str, Any]) -> list[str]:
    """The organisations of a token, in lower case: `azp`, and `user:memberof:<org>` in the list `scope`."""
    azp, scope = claims.get("azp"), claims.get("scope")
    found = [azp.lower()] if isinstance(azp, str) else []
    for entry in scope[:_ORGANIZATIONS] if isinstance(scope, list) else ():
        if isinstance(entry, str) and entry.lower().startswith(_MEMBER):
            found.append(entry.lower()[len(_MEMBER) :])
    return found


def _time(claims: dict[str, Any], name: str, default: float) -> float:
    value = claims.get(name, default)
    if name not in claims:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e15 < value < 1e15:
        raise BadToken(f"{name} is no time")
    return float(value)


def _name(claims: dict[str, Any]) -> str:
    """Who the token speaks of."""
    name = next((claims[key] for key in ("sub", "username", "azp") if claims.get(key)), None)
    if not isinstance(name, str):
        raise BadToken("without sub, username or azp")
    if len(name) > _NAME_CHARS or not name.isprintable():
        raise BadToken(f"sub: expected at most {_NAME_CHARS} printable characters")
    return name


def load(settings: config.Jwt, organizations: list[str]) -> Tokens | None:
    """The keys of the configured files; None when there are none. InvalidArgument, OSError.

    `organizations` are those of the kernel command line: their members are admins.
    """
    if len(settings.keys) + len(settings.secrets) > _KEYS:
        raise InvalidArgument(f"gate.jwt: more than {_KEYS} keys")
    if not settings.keys and not settings.secrets:
        return None
    import jwt  # noqa: F401 - here, in a thread, and not when the first client waits

    keys = [_public_key(path) for path in settings.keys] + [_secret(path) for path in settings.secrets]
    granted: dict[str, RoleName] = {name.lower(): role for name, role in settings.organizations.items()}
    granted |= {name.lower(): "admin" for name in organizations if name}
    return Tokens(settings, granted, tuple(keys))


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        data = file.read(_KEY_BYTES + 1)
    if len(data) > _KEY_BYTES:
        raise InvalidArgument(f"{path}: longer than {_KEY_BYTES} bytes")
    return data.strip()


def _public_key(path: str) -> tuple[str, Any]:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from cryptography.x509 import load_pem_x509_certificate

    data = _read(path)
    try:
        is_certificate = b"BEGIN CERTIFICATE" in data
        key = load_pem_x509_certificate(data).public_key() if is_certificate else load_pem_public_key(data)
    except ValueError as error:
        raise InvalidArgument(f"{path}: expected a public key or a certificate as PEM") from error
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp384r1":
        return "ES384", key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _RSA_BITS:
        return "RS256", key
    raise InvalidArgument(f"{path}: expected a P-384 key (ES384) or RSA of {_RSA_BITS} bits or more (RS256)")


def _secret(path: str) -> tuple[str, Any]:
    data = _read(path)
    if data.startswith((b"-----BEGIN", b"ssh-", b"ecdsa-")):
        raise InvalidArgument(f"{path}: a key pair's key is no secret", hint="see gate.jwt.keys")
    if len(data) < _SECRET_BYTES:
        raise InvalidArgument(f"{path}: expected a secret of {_SECRET_BYTES} bytes or more")
    return "HS256", data
