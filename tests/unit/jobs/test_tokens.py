"""JSON web tokens: what is accepted, and every way to be refused."""

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import jwt
import pytest

from g8node import config
from g8node.errors import InvalidArgument
from g8node.jobs import tokens
from g8node.jobs.model import Caller
from g8node.jobs.tokens import TOKEN_BYTES, BadToken, Tokens, looks_like_token
from tests.support.keys import (
    SECRET,
    Private,
    p256,
    p384,
    private_pem,
    public_pem,
    raw_token,
    rsa_key,
    token,
)

NOW = 1_800_000_000.0
GOOD = {"sub": "ann", "azp": "acme"}


def loaded(
    folder: Path, *, organizations: Any = None, kernel: tuple[str, ...] = (), **settings: Any
) -> Tokens:
    """The rules with all three kinds of key."""
    (folder / "ec.pem").write_bytes(public_pem(p384()))
    (folder / "rsa.pem").write_bytes(public_pem(rsa_key()))
    (folder / "secret").write_bytes(SECRET + b"\n")
    rules = config.Jwt(
        keys=(f"{folder}/ec.pem", f"{folder}/rsa.pem"),
        secrets=(f"{folder}/secret",),
        organizations={"Acme": "operator"} if organizations is None else organizations,
        **settings,
    )
    found = tokens.load(rules, list(kernel))
    assert found is not None
    return found


@pytest.fixture
def rules(tmp_path: Path) -> Tokens:
    return loaded(tmp_path)


def refused(rules: Tokens, text: str, now_s: float = NOW) -> str:
    with pytest.raises(BadToken) as raised:
        rules.caller(text.encode(), now_s)
    return str(raised.value)


@pytest.mark.parametrize(
    ("algorithm", "key"), [("ES384", p384), ("RS256", rsa_key), ("HS256", lambda: SECRET)]
)
def test_token_of_each_algorithm_is_accepted(rules: Tokens, algorithm: str, key: Any) -> None:
    text = token(GOOD, key(), algorithm)
    assert looks_like_token(text.encode())
    assert rules.caller(text.encode(), NOW) == Caller("jwt:ann", "operator")


def test_token_of_any_of_several_keys_is_accepted(tmp_path: Path) -> None:
    for number in (0, 1):
        (tmp_path / f"{number}.pem").write_bytes(public_pem(p384(number)))
    settings = config.Jwt(keys=(f"{tmp_path}/0.pem", f"{tmp_path}/1.pem"), organizations={"acme": "reader"})
    rules = tokens.load(settings, [])
    assert rules is not None
    assert rules.caller(token(GOOD, p384(1)).encode(), NOW).role == "reader"
    assert refused(rules, token(GOOD, p384(2))) == "wrong signature"


# The organisation's rules of spec 1.7


@pytest.mark.parametrize(
    "claims",
    [
        {"azp": "ACME"},
        {"scope": ["user:memberof:acme"]},
        {"scope": ["user:name", "User:MemberOf:ACME"], "azp": "other"},
    ],
)
def test_token_of_a_member_is_accepted(rules: Tokens, claims: dict[str, Any]) -> None:
    assert rules.caller(token({"sub": "ann", **claims}).encode(), NOW).role == "operator"


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"azp": "other"},
        {"azp": "acme.sub"},
        {"azp": ["acme"]},
        {"azp": None},
        {"scope": "user:memberof:acme"},
        {"scope": ["user:memberof:acme2", "memberof:acme", "acme", 5, None]},
        {"scope": {"user:memberof:acme": 1}},
        {"scope": ["x"] * 2 + ["user:memberof:"]},
    ],
)
def test_token_of_no_member_is_refused(rules: Tokens, claims: dict[str, Any]) -> None:
    assert "organisation" in refused(rules, token({"sub": "ann", **claims}))


def test_token_of_several_organisations_has_the_highest_role(tmp_path: Path) -> None:
    rules = loaded(tmp_path, organizations={"a": "reader", "b": "admin", "c": "operator"})
    claims = {"sub": "x", "azp": "a", "scope": ["user:memberof:c", "user:memberof:b"]}
    assert rules.caller(token(claims).encode(), NOW).role == "admin"


def test_kernel_s_organisation_makes_admins(tmp_path: Path) -> None:
    rules = loaded(tmp_path, organizations={}, kernel=("GIG",))
    assert rules.caller(token({"sub": "x", "azp": "gig"}).encode(), NOW).role == "admin"
    assert "organisation" in refused(rules, token({"sub": "x", "azp": "acme", "role": "admin"}))


# Roles


@pytest.mark.parametrize(
    ("claim", "role"), [("reader", "reader"), ("operator", "operator"), ("admin", "operator")]
)
def test_role_claim_lowers_the_organisation_s_role_and_never_raises_it(
    rules: Tokens, claim: str, role: str
) -> None:
    assert rules.caller(token({**GOOD, "role": claim}).encode(), NOW).role == role


@pytest.mark.parametrize("claim", ["root", "", "Admin", ["admin"], {"admin": 1}, True, 1])
def test_role_claim_that_is_no_role_is_refused(rules: Tokens, claim: Any) -> None:
    assert "role" in refused(rules, token({**GOOD, "role": claim}))


def test_role_claim_alone_decides_without_organisations(tmp_path: Path) -> None:
    rules = loaded(tmp_path, organizations={}, role_claim="g8")
    assert rules.caller(token({"sub": "x", "g8": "admin"}).encode(), NOW).role == "admin"
    assert "without a role" in refused(rules, token({"sub": "x", "role": "admin"}))


def test_role_claim_can_be_switched_off(tmp_path: Path) -> None:
    rules = loaded(tmp_path, role_claim="")
    assert rules.caller(token({**GOOD, "role": "reader"}).encode(), NOW).role == "operator"


# Times


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": NOW - 61}, "expired"),
        ({"exp": 0}, "expired"),
        ({"exp": -1}, "expired"),
        ({"nbf": NOW + 61}, "not valid yet"),
        ({"exp": NOW + 100, "nbf": NOW + 90}, "not valid yet"),
    ],
)
def test_token_outside_its_time_is_refused(rules: Tokens, claims: dict[str, Any], reason: str) -> None:
    assert refused(rules, token({**GOOD, **claims})) == reason


@pytest.mark.parametrize(
    "claims", [{"exp": NOW - 59}, {"nbf": NOW + 59}, {"exp": NOW + 1e9}, {"iat": NOW * 2}]
)
def test_token_within_its_time_and_leeway_is_accepted(rules: Tokens, claims: dict[str, Any]) -> None:
    assert rules.caller(token({**GOOD, **claims}).encode(), NOW).name == "jwt:ann"


@pytest.mark.parametrize("name", ["exp", "nbf"])
@pytest.mark.parametrize(
    "value", [b"NaN", b"Infinity", b"-Infinity", b"1e400", b'"1"', b"true", b"null", b"[]"]
)
def test_token_whose_time_is_no_number_is_refused(rules: Tokens, name: str, value: bytes) -> None:
    payload = b'{"sub":"ann","azp":"acme","%b":%b}' % (name.encode(), value)
    text = jwt.api_jws.PyJWS().encode(payload, SECRET, "HS256")
    assert refused(rules, text) == f"{name} is no time"


def test_clock_that_was_not_set_is_not_compared_with(rules: Tokens) -> None:
    for claims in ({"exp": NOW}, {"nbf": NOW}, {"exp": 1000}):
        assert rules.caller(token({**GOOD, **claims}).encode(), 100.0).role == "operator"
    assert refused(rules, token(GOOD, p384(7)), 100.0) == "wrong signature"


# Algorithms and keys


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", "HS256 ", "hs256", None, 5, ["HS256"]])
@pytest.mark.parametrize("signature", [b"", b"x"])
def test_algorithm_none_and_its_like_are_refused(rules: Tokens, name: Any, signature: bytes) -> None:
    assert refused(rules, raw_token({"alg": name, "typ": "JWT"}, GOOD, signature)) in (
        "no key for its algorithm",
        "malformed",
    )


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256"])
def test_other_algorithm_of_our_rsa_key_is_refused(rules: Tokens, algorithm: str) -> None:
    assert refused(rules, token(GOOD, rsa_key(), algorithm)) == "no key for its algorithm"


def test_other_algorithm_of_our_secret_is_refused(rules: Tokens) -> None:
    text = token(GOOD, SECRET * 2, "HS512")
    assert refused(rules, text) == "no key for its algorithm"


def test_other_curve_is_refused(rules: Tokens) -> None:
    assert refused(rules, token(GOOD, p256(), "ES256")) == "no key for its algorithm"


@pytest.mark.parametrize("key", [p384, rsa_key])
def test_public_key_taken_for_a_secret_is_refused(tmp_path: Path, key: Any) -> None:
    """Key confusion: a token signed as HS256 with the text of a public key that everybody has."""
    pem = public_pem(key())
    (tmp_path / "public.pem").write_bytes(pem)
    alone = tokens.load(config.Jwt(keys=(f"{tmp_path}/public.pem",), organizations={"acme": "admin"}), [])
    assert alone is not None
    for secret in (pem, pem.strip()):
        text = hs256(secret)
        assert refused(alone, text) == "no key for its algorithm"
        assert refused(loaded(tmp_path), text) == "wrong signature"


def hs256(secret: bytes) -> str:
    """PyJWT itself refuses to sign with a PEM."""
    unsigned = raw_token({"alg": "HS256"}, GOOD).rpartition(".")[0]
    return f"{unsigned}.{_hmac(unsigned, secret)}"


def _hmac(text: str, secret: bytes) -> str:
    digest = hmac.new(secret, text.encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def test_home_made_hs256_of_the_secret_is_accepted(rules: Tokens) -> None:
    assert rules.caller(hs256(SECRET).encode(), NOW).role == "operator"


@pytest.mark.parametrize("algorithm", ["ES384", "RS256", "HS256"])
def test_stolen_signature_of_other_claims_is_refused(rules: Tokens, algorithm: str) -> None:
    key = {"ES384": p384(), "RS256": rsa_key(), "HS256": SECRET}[algorithm]
    header, _, signature = token(GOOD, key, algorithm).split(".")
    claims = base64.urlsafe_b64encode(json.dumps({**GOOD, "sub": "eve"}).encode()).rstrip(b"=").decode()
    assert refused(rules, f"{header}.{claims}.{signature}") == "wrong signature"
    assert refused(rules, f"{header}.{claims}.") == "wrong signature"


def test_key_that_the_token_brings_along_is_not_used(rules: Tokens) -> None:
    own = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(p384(9).public_key()))
    text = token(GOOD, p384(9), jwk=own, jku="http://127.0.0.1:1/", kid="../../dev/null", x5u="http://x/")
    assert refused(rules, text) == "wrong signature"


@pytest.mark.parametrize(
    "header", [{"crit": ["exp"], "exp": 1}, {"crit": ["b64"], "b64": True}, {"crit": []}]
)
def test_critical_header_fields_are_refused(rules: Tokens, header: dict[str, Any]) -> None:
    signed = raw_token({"alg": "HS256", **header}, GOOD).rpartition(".")[0]
    assert refused(rules, f"{signed}.{_hmac(signed, SECRET)}") in (
        "critical header fields are not understood",
        "malformed",
    )


# Shape


def test_oversized_token_is_refused_before_it_is_read(rules: Tokens) -> None:
    text = token({**GOOD, "pad": "x" * TOKEN_BYTES})
    assert refused(rules, text) == f"longer than {TOKEN_BYTES} bytes"


@pytest.mark.parametrize(
    "text",
    [
        "..",
        "a.b.c",
        "eyJhbGciOiJIUzI1NiJ9.e30",
        "eyJhbGciOiJIUzI1NiJ9.!!!.x",
        "\u00e9.\u00e9.\u00e9",
        raw_token(b"[]", {}),
        raw_token(b"{", {}),
        raw_token(b"[" * 5000, {}),
        raw_token(b'{"alg":"HS256","alg":"none"}', GOOD),
    ],
)
def test_malformed_token_is_refused(rules: Tokens, text: str) -> None:
    assert refused(rules, text)


@pytest.mark.parametrize("payload", [b"[]", b'"x"', b"5", b"{", b"\xff", b"", b"[" * 4000])
def test_signed_payload_that_is_no_object_is_refused(rules: Tokens, payload: bytes) -> None:
    assert refused(rules, jwt.api_jws.PyJWS().encode(payload, SECRET, "HS256")) == "malformed"


@pytest.mark.parametrize("subject", ["a\nb", "a\x00b", "\x1b[2J", "x" * 129, 5, ["x"]])
def test_subject_that_is_no_name_is_refused(rules: Tokens, subject: Any) -> None:
    assert "sub" in refused(rules, token({"azp": "acme"}) if subject is None else signed_subject(subject))


def signed_subject(subject: Any) -> str:
    """PyJWT signs no subject but text."""
    payload = json.dumps({"sub": subject, "azp": "acme"}).encode()
    return jwt.api_jws.PyJWS().encode(payload, SECRET, "HS256")


def test_name_falls_back_to_username_and_azp(rules: Tokens) -> None:
    assert rules.caller(token({"username": "bob", "azp": "acme"}).encode(), NOW).name == "jwt:bob"
    assert rules.caller(token({"azp": "acme"}).encode(), NOW).name == "jwt:acme"
    assert "sub" in refused(rules, token({"scope": ["user:memberof:acme"]}))


@pytest.mark.parametrize(
    ("audience", "is_good"), [("g8", True), (["x", "g8"], True), ("x", False), ([], False)]
)
def test_audience_is_asked_for_when_configured(tmp_path: Path, audience: Any, is_good: bool) -> None:
    rules = loaded(tmp_path, audience="g8")
    text = token({**GOOD, "aud": audience})
    if is_good:
        assert rules.caller(text.encode(), NOW).name == "jwt:ann"
    else:
        assert "audience" in refused(rules, text)
    assert "audience" in refused(rules, token(GOOD))


# Keys from files


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("keys", b"", "expected a public key"),
        ("keys", b"nonsense", "expected a public key"),
        ("keys", SECRET, "expected a public key"),
        ("keys", b"x" * 70_000, "longer"),
        ("secrets", b"short", "32 bytes"),
        ("secrets", b"", "32 bytes"),
    ],
)
def test_key_file_that_is_wrong_is_refused(tmp_path: Path, name: str, content: bytes, named: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InvalidArgument, match=named):
        tokens.load(config.Jwt(**{name: (f"{tmp_path}/file",)}), [])


@pytest.mark.parametrize("key", [p256, p384, rsa_key])
def test_keys_of_pairs_are_told_from_secrets(tmp_path: Path, key: Any) -> None:
    pair: Private = key()
    for pem in (public_pem(pair), private_pem(pair)):
        (tmp_path / "file").write_bytes(pem)
        with pytest.raises(InvalidArgument, match="no secret"):
            tokens.load(config.Jwt(secrets=(f"{tmp_path}/file",)), [])


def test_weak_public_keys_are_refused(tmp_path: Path) -> None:
    for key in (p256(), rsa_key(1024)):
        (tmp_path / "file").write_bytes(public_pem(key))
        with pytest.raises(InvalidArgument, match="P-384"):
            tokens.load(config.Jwt(keys=(f"{tmp_path}/file",)), [])


def test_without_keys_there_are_no_tokens() -> None:
    assert tokens.load(config.Jwt(), ["acme"]) is None
    assert not looks_like_token(b"correct horse")
