"""TLS of the gate: redis-cli and redis-py, certificates of both sides, what is refused, many clients."""

import asyncio
import contextlib
import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import AuthenticationError, NoPermissionError

from g8node.errors import InvalidArgument
from g8node.jobs import gate as gates
from g8tools.g8 import client as blocking
from g8tools.g8.aio import Client
from tests.support.daemon import Daemon, daemon
from tests.support.keys import TestAuthority, p384, private_pem
from tests.support.redis import PASSWORD, Stack, eventually, running_stack
from tests.support.rundelay import RunDelay
from tests.support.tool import be_patient

TOP = Path(__file__).resolve().parent.parent.parent
_STALL = re.compile(r"the event loop stalled .*seconds=([\d.]+)\n((?:  .*\n)*)")


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path) as stack:
        yield stack


def port(stack: Stack) -> int:
    assert stack.gate is not None
    return stack.gate.port


def own_ca(stack: Stack) -> str:
    return str(stack.folder / "gate/ca.pem")


async def cli(stack: Stack, *words: str, password: str = PASSWORD) -> str:
    """What redis-cli prints."""

    def run() -> str:
        env = {"PATH": os.environ["PATH"]} | ({"REDISCLI_AUTH": password} if password else {})
        argv = ["redis-cli", "-p", str(port(stack)), *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=env, check=False)
        return (done.stdout + done.stderr).strip()

    return await asyncio.to_thread(run)


def client(stack: Stack, **options: Any) -> Any:
    return stack.client(**({"ssl": True, "ssl_ca_certs": own_ca(stack)} | options))


async def hello(stack: Stack, tls: ssl.SSLContext) -> bytes:
    """The answer to PING without AUTH; the handshake's error is raised (TLS 1.3: on the first read)."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port(stack), ssl=tls, server_hostname="localhost"
    )
    try:
        writer.write(b"PING\r\n")
        async with asyncio.timeout(60):
            return await reader.readline()
    finally:
        writer.close()


async def test_redis_cli_speaks_tls_with_our_own_ca(stack: Stack) -> None:
    await stack.open_gate(tls=True)
    tls = ("--tls", "--cacert", own_ca(stack))
    assert json.loads(await cli(stack, *tls, "core.ping")).startswith("PONG")
    assert await cli(stack, *tls, "bash", "--text", "script=echo hi") == "hi"
    assert json.loads(await cli(stack, "--tls", "--insecure", "core.ping")).startswith("PONG")
    assert (await cli(stack, *tls, "PING", password="")).startswith("NOAUTH")


async def test_redis_py_verifies_the_address_it_dialled(stack: Stack) -> None:
    await stack.open_gate(tls=True)
    good = client(stack, ssl_check_hostname=True)
    assert (await stack.run("core.ping", "1", good))["state"] == "SUCCESS"
    with pytest.raises(AuthenticationError):
        await client(stack, password="wrong").ping()


async def test_other_ca_is_no_proof(stack: Stack, tmp_path: Path) -> None:
    await stack.open_gate(tls=True)
    foreign = TestAuthority(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        await hello(stack, ssl.create_default_context(cafile=str(foreign.path)))


async def test_own_certificates_are_new_at_each_start_and_no_key_is_on_disk(stack: Stack) -> None:
    gate = await stack.open_gate(tls=True)
    pem = stack.folder / "gate/ca.pem"
    first = pem.read_bytes()
    await gate.stop()
    await stack.open_gate(tls=True)
    assert pem.read_bytes() != first
    assert [path.name for path in (stack.folder / "gate").iterdir()] == ["ca.pem"]
    assert b"PRIVATE" not in pem.read_bytes()


async def test_own_certificate_names_what_is_configured(stack: Stack) -> None:
    await stack.open_gate(tls=True, tls_names=("node7.example", "192.0.2.7"))
    tls = ssl.create_default_context(cafile=own_ca(stack))
    for name in ("node7.example", "192.0.2.7", "localhost", "127.0.0.1", "::1"):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port(stack), ssl=tls, server_hostname=name
        )
        writer.write(b"PING\r\n")
        assert (await reader.readline()).startswith(b"-NOAUTH")
        writer.close()
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection("127.0.0.1", port(stack), ssl=tls, server_hostname="other.example")


async def test_older_protocols_are_refused(stack: Stack) -> None:
    await stack.open_gate(tls=True)
    tls = ssl.create_default_context(cafile=own_ca(stack))
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await hello(stack, tls)
    tls.maximum_version = ssl.TLSVersion.TLSv1_3
    assert (await hello(stack, tls)).startswith(b"-NOAUTH")


async def test_plain_words_to_a_tls_port_get_no_answer(stack: Stack) -> None:
    await stack.open_gate(tls=True)
    reader, writer = await asyncio.open_connection("127.0.0.1", port(stack))
    writer.write(b"PING\r\n")
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionError):
            assert b"PONG" not in await reader.read()
    writer.close()
    assert await client(stack).ping()


# Given certificates, certificates of clients


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    return TestAuthority(tmp_path)


async def test_given_certificate_is_used(stack: Stack, authority: TestAuthority) -> None:
    certificate, key = authority.issue("server")
    await stack.open_gate(tls=True, tls_certificate=str(certificate), tls_key=str(key))
    assert (await hello(stack, ssl.create_default_context(cafile=str(authority.path)))).startswith(b"-NOAUTH")
    assert not (stack.folder / "gate").exists()


async def test_gate_stays_closed_with_a_certificate_that_cannot_be_used(
    stack: Stack, authority: TestAuthority, tmp_path: Path
) -> None:
    certificate, key = (str(path) for path in authority.issue("server"))
    (tmp_path / "other.key").write_bytes(private_pem(p384()))
    (tmp_path / "junk").write_bytes(b"junk")
    for wrong in (
        {"tls_certificate": certificate},
        {"tls_key": key},
        {"tls_certificate": certificate, "tls_key": str(tmp_path / "other.key")},
        {"tls_certificate": certificate, "tls_key": str(tmp_path / "none")},
        {"tls_certificate": str(tmp_path / "junk"), "tls_key": key},
        {"tls_client_ca": str(tmp_path / "junk")},
    ):
        gate = await stack.open_gate(tls=True, **wrong)
        assert gate.port == 0, wrong
        await gate.stop()


async def test_client_certificate_is_an_identity_with_a_role(stack: Stack, authority: TestAuthority) -> None:
    roles = {"ann": "reader", "bob": "admin"}
    await stack.open_gate(tls=True, tls_client_ca=str(authority.path), certificate_roles=roles)
    ann, bob, eve = (_with(authority, name) for name in ("ann", "bob", "eve"))
    assert await client(stack, password=None, **ann).execute_command("core.ping")
    with pytest.raises(NoPermissionError, match="certificate:ann is reader"):
        await client(stack, password=None, **ann).execute_command("bash", "script=true")
    assert await client(stack, password=None, **bob).execute_command("bash", "script=true")
    with pytest.raises(AuthenticationError):  # known to the CA, without a role
        await client(stack, password=None, **eve).ping()
    assert await client(stack, **eve).ping()
    assert await client(stack).ping()


def _with(authority: TestAuthority, name: str, days: int = 1) -> dict[str, str]:
    certificate, key = authority.issue(name, days=days)
    return {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}


async def test_client_certificate_of_another_ca_or_time_ends_the_handshake(
    stack: Stack, authority: TestAuthority, tmp_path: Path
) -> None:
    await stack.open_gate(tls=True, tls_client_ca=str(authority.path), certificate_roles={"*": "admin"})
    foreign = TestAuthority(tmp_path, "foreign")
    for issuer, days in ((foreign, 1), (authority, -1)):
        certificate, key = issuer.issue("ann", days=days)
        tls = ssl.create_default_context(cafile=own_ca(stack))
        tls.load_cert_chain(certificate, key)
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            assert await hello(stack, tls) == b""
    assert await client(stack, password=None, **_with(authority, "ann")).ping()


async def test_dates_of_client_certificates_wait_for_the_clock(
    stack: Stack, authority: TestAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stack.open_gate(tls=True, tls_client_ca=str(authority.path), certificate_roles={"*": "admin"})
    monkeypatch.setattr(gates.time, "time", lambda: 1000.0)
    assert await client(stack, password=None, **_with(authority, "ann", days=-1)).ping()


# Limits


async def test_client_that_leaves_during_the_handshake_is_forgotten(stack: Stack) -> None:
    gate = await stack.open_gate(tls=True)
    for piece in (b"", b"\x16\x03\x01", b"\x16\x03\x01\x02\x00\x01\x00"):
        _, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        writer.write(piece)
        writer.close()
    tls = ssl.create_default_context(cafile=own_ca(stack))
    for _ in range(20):
        _, writer = await asyncio.open_connection("127.0.0.1", gate.port, ssl=tls)
        writer.transport.abort()
    await eventually(lambda: gate.state()["clients"] == 0)
    assert await client(stack).ping()


# The whole daemon


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("node"), "tls = true\n") as running:
        yield running
        assert "Traceback" not in running.log()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    be_patient(monkeypatch)


def ca_of(node: Daemon) -> str:
    return str(node.folder / "root/run/gate/ca.pem")


@pytest.mark.usefixtures("patience")
async def test_client_library_speaks_tls(node: Daemon) -> None:
    async with Client("127.0.0.1", node.port, node.password, cacert=ca_of(node)) as client:
        assert (await client.ping()).startswith("PONG")
        assert (await client.sync("core.state", {})).state == "SUCCESS"


@pytest.mark.usefixtures("patience")
def test_blocking_client_verifies_by_the_ca_it_is_given(node: Daemon, tmp_path: Path) -> None:
    address = ("127.0.0.1", node.port, node.password)
    with blocking.Client(*address, cacert=ca_of(node)) as opened:
        assert opened.ping().startswith("PONG")
    with blocking.Client(*address) as opened:  # as the original: whoever answers
        assert opened.ping().startswith("PONG")
    foreign = str(TestAuthority(tmp_path).path)
    with pytest.raises(ConnectionError, match="TLS: "):
        blocking.Client(*address, cacert=foreign, testConnectionAttempts=1)
    with pytest.raises(ConnectionError, match=f"node 127.0.0.1:{node.port}"):
        blocking.Client(*address, ssl=False, timeout=2, testConnectionAttempts=1)
    with pytest.raises(InvalidArgument, match=r"TLS: .*none\.pem"):
        blocking.Client(*address, cacert=f"{tmp_path}/none.pem")


@pytest.mark.parametrize("by", ["option", "environment", "insecure", "context"])
def test_g8_speaks_tls(node: Daemon, by: str, tmp_path: Path) -> None:
    env = {
        "PATH": "/usr/bin:/bin",
        "G8_NODE": f"127.0.0.1:{node.port}",
        "G8_PASSWORD_FILE": str(node.folder / "password"),
        "XDG_CONFIG_HOME": str(tmp_path),
        **({"G8_CACERT": ca_of(node)} if by == "environment" else {}),
    }
    options = {"option": ["--tls", "--cacert", ca_of(node)], "insecure": ["--insecure"]}
    g8 = [sys.executable, "-m", "g8tools.g8"]
    argv = [*g8, *options.get(by, []), "ping"]
    if by == "context":
        address, password_file = env.pop("G8_NODE"), env.pop("G8_PASSWORD_FILE")
        add = [
            *g8,
            "context",
            "add",
            "lab",
            address,
            "--cacert",
            ca_of(node),
            "--password-file",
            password_file,
        ]
        subprocess.run(add, cwd=TOP, env=env, check=True, timeout=60)
    done = subprocess.run(argv, cwd=TOP, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.startswith("PONG"), done.stderr


@pytest.mark.usefixtures("patience")
async def test_500_blocked_clients_over_tls_do_not_starve_each_other_nor_the_loop(node: Daemon) -> None:
    total = 500
    tls = ssl.create_default_context(cafile=ca_of(node))
    ask = f'AUTH "{node.password}"\r\n'.encode()
    entrance = asyncio.Semaphore(50)  # a handshake that takes ten seconds is given up
    before, delay = len(node.log()), RunDelay(node.pid)

    async def wait(number: int) -> bytes:
        async with entrance:
            reader, writer = await asyncio.open_connection("127.0.0.1", node.port, ssl=tls)
            writer.write(ask + b"BRPOPLPUSH result:w%d result:w%d 300\r\n" % (number, number))
            assert await reader.readline() == b"+OK\r\n"
        try:
            async with asyncio.timeout(300):
                return await reader.readuntil(b"}\r\n")
        finally:
            writer.close()

    waiting = [asyncio.create_task(wait(number)) for number in range(total)]
    async with Client("127.0.0.1", node.port, node.password, ssl=tls) as client:
        async with asyncio.timeout(240):
            while (await client.json("core.state", {}))["gate"]["clients"] < total:
                assert not any(task.done() for task in waiting)
        for number in reversed(range(total)):
            await client.raw("core.ping", {}, id=f"w{number}")
        answers = await asyncio.gather(*waiting)
    assert all(b"SUCCESS" in answer for answer in answers)
    delayed = delay.seconds()
    for seconds, stack in _STALL.findall(node.log()[before:]):
        busy_with = [each for each in ("/jobs/tls.py", "/jobs/tokens.py", "cryptography/") if each in stack]
        assert not busy_with or float(seconds) - delayed <= 0.05, (seconds, delayed, stack)
