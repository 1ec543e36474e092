"""TLS with pre-shared keys, where Python can do it; a clear refusal where it cannot."""

import ssl
import sys
from pathlib import Path
from typing import Any

import pytest

from g8node.errors import InvalidArgument
from g8node.nbd.tls import context_of, psk_context, read_keys

KEY = "0123456789abcdef" * 4


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.psk"
    path.write_text(f"# made by psktool\nalice:{KEY}\n\nbob:{KEY[::-1]}\n")
    return path


def handshake(server: ssl.SSLContext, identity: str, key: str) -> str:
    """The suite that two ends agree on, in memory."""
    client: Any = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("PSK")
    client.set_psk_client_callback(lambda hint: (identity, bytes.fromhex(key)))
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)]
    for _ in range(10):
        done = 0
        for end in ends:
            try:
                end.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                pass
        if done == 2:
            suite = ends[1].cipher()
            assert suite is not None
            return str(suite[0])
    raise AssertionError("no end of the handshake")


def test_keys_of_a_file_are_read(keys: Path) -> None:
    assert read_keys(str(keys)) == {"alice": bytes.fromhex(KEY), "bob": bytes.fromhex(KEY[::-1])}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no key"),
        ("alice\n", "line 1: expected identity:key"),
        (f"alice:{KEY}\nbob:xyz\n", "line 2"),
        ("alice:0011\n", "line 1"),
        (f":{KEY}\n", "line 1"),
        (f"{'a' * 200}:{KEY}\n", "line 1"),
    ],
)
def test_bad_file_is_named_without_its_keys(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(InvalidArgument, match=says) as raised:
        read_keys(str(path))
    assert str(path) in str(raised.value)
    assert KEY[:8] not in str(raised.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"tls_psk: .*nothing: No such file"):
        read_keys(f"{tmp_path}/nothing")


def test_certificate_and_keys_exclude_each_other(keys: Path) -> None:
    with pytest.raises(InvalidArgument, match="tls_psk"):
        context_of("certificate.pem", "key.pem", "", str(keys))
    with pytest.raises(InvalidArgument, match="tls_certificate and tls_key"):
        context_of("certificate.pem", "", "", "")
    assert context_of("", "", "", "") is None


def test_client_with_the_key_is_let_in_and_no_other_one(keys: Path) -> None:
    if sys.version_info < (3, 13):
        with pytest.raises(InvalidArgument, match=r"tls_psk: Python 3\.11 cannot"):
            psk_context(str(keys))
        return
    server = psk_context(str(keys))
    assert "PSK" in handshake(server, "alice", KEY)
    assert "PSK" in handshake(server, "bob", KEY[::-1])
    for identity, key in (("alice", KEY[::-1]), ("mallory", KEY), ("mallory", ""), ("", KEY)):
        with pytest.raises(ssl.SSLError):
            handshake(server, identity, key)
