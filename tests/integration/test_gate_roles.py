"""Roles, tokens and visibility over a real connection, and the audit log of it."""

import importlib
import json
import pkgutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from g8node import config
from g8node.jobs import audit as audits
from g8node.jobs import commands
from g8node.jobs.commands import bash, core, corex, info, job, process
from g8node.jobs.model import Role
from g8node.jobs.registry import Registry
from tests.support.keys import p384, public_pem, token
from tests.support.redis import Recorder, Stack, eventually, running_stack

PASSWORDS = "admin:aaa\noperator:ooo\nreader:rrr\nreader:sss"
SECRETS = {"admin": "aaa", "operator": "ooo", "reader": "rrr"}


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(tmp_path, Registry([bash, core, corex, info, job, process])) as stack:
        stack.manager.sinks.append(Recorder())
        (tmp_path / "key.pem").write_bytes(public_pem(p384()))
        jwt = config.Jwt(keys=(f"{tmp_path}/key.pem",), organizations={"acme": "operator"})
        await stack.open_gate(PASSWORDS, jwt=jwt)
        yield stack


def audit(stack: Stack) -> list[dict[str, Any]]:
    recorder = stack.manager.sinks[1]
    assert isinstance(recorder, Recorder)
    return [json.loads(message.message) for id, message in recorder.messages if id == "audit"]


@pytest.mark.parametrize("role", ["reader", "operator", "admin"])
async def test_every_command_needs_its_role(stack: Stack, role: str) -> None:
    client = stack.client(SECRETS[role])
    for name in stack.manager.registry.names():
        is_allowed = Role[role.upper()] >= stack.manager.registry.get(name).role
        entry = json.dumps({"id": f"{role}-{name}", "command": name})
        for words in ((name,), ("RPUSH", "core:default", entry)):
            try:
                await client.execute_command(*words)
                refused = False
            except NoPermissionError:
                refused = True
            except ResponseError:
                refused = False
            assert refused is not is_allowed, (name, words)


async def test_every_command_of_the_node_is_refused_to_lower_roles(tmp_path: Path) -> None:
    names = [module.name for module in pkgutil.iter_modules(commands.__path__, f"{commands.__name__}.")]
    registry = Registry([importlib.import_module(name) for name in names])
    assert len(registry.names()) > 70
    async with running_stack(tmp_path, registry) as stack:
        await stack.open_gate(PASSWORDS)
        for role in ("reader", "operator"):
            client = stack.client(SECRETS[role])
            for name in registry.names():
                if registry.get(name).role > Role[role.upper()]:
                    with pytest.raises(NoPermissionError, match=f"{name} needs role"):
                        await client.execute_command(name)
                    with pytest.raises(NoPermissionError, match=f"{name} needs role"):
                        await stack.push(name, "x", client)


def test_commands_that_are_root_are_the_admin_s() -> None:
    registry = Registry([bash, core, corex, info, job, process])
    least = {name: registry.get(name).role for name in registry.names()}
    for name in ("bash", "core.system", "core.reboot", "core.poweroff", "process.kill", "job.killall"):
        assert least[name] is Role.ADMIN
    for name in ("corex.create", "corex.dispatch", "corex.terminate", "job.kill", "core.subscribe"):
        assert least[name] is Role.OPERATOR


async def test_token_is_a_password(stack: Stack) -> None:
    client = stack.client(token({"sub": "ann", "azp": "acme"}))
    assert await client.execute_command("job.kill", "id=none") == "false"
    with pytest.raises(NoPermissionError, match="jwt:ann is operator"):
        await client.execute_command("bash", "script=true")
    for wrong in (token({"sub": "ann", "azp": "x"}), token({"sub": "ann", "azp": "acme"}, p384(3))):
        with pytest.raises(AuthenticationError, match="invalid jwt"):
            await stack.client(wrong).ping()


async def test_jobs_of_others_are_not_there(stack: Stack) -> None:
    admin, operator = stack.client("aaa"), stack.client("ooo")
    await stack.push("bash", "secret", admin, arguments={"script": "sleep 60"})
    await eventually(lambda: (found := stack.manager.find("secret")) is not None and found.pid)
    for client in (operator, stack.client("rrr")):
        listed = json.loads(await client.execute_command("job.list"))
        assert "secret" not in {row["cmd"]["id"] for row in listed}
        for key in ("result:secret", "result:secret:flag", "stream:secret", "logger:x"):
            with pytest.raises(NoPermissionError):
                await client.llen(key)
        with pytest.raises(ResponseError, match="exists"):
            await stack.push("core.ping", "secret", client)
    assert await operator.execute_command("job.kill", "id=secret") == "false"
    with pytest.raises(ResponseError, match="404"):
        await operator.execute_command("core.subscribe", "id=secret")
    assert await admin.execute_command("job.kill", "id=secret", "signal=9") == "true"


async def test_reader_reads_own_results_and_no_other_reader_s(stack: Stack) -> None:
    assert (await stack.run("core.ping", "mine", stack.client("rrr")))["state"] == "SUCCESS"
    with pytest.raises(NoPermissionError):
        await stack.client("sss").llen("result:mine")
    assert await stack.client("ooo").llen("result:mine") == 1


async def test_audit_says_who_did_what_when_with_what_result(stack: Stack) -> None:
    await stack.client("aaa").execute_command("bash", "--id=7", "script=exit 3")
    with pytest.raises(NoPermissionError):
        await stack.client("rrr").execute_command("bash", "script=true")
    with pytest.raises(AuthenticationError):
        await stack.client("nope").ping()
    await stack.client("rrr").execute_command("core.ping")
    entries = audit(stack)
    shown = [(e["what"], e["who"], e.get("command"), e["result"]) for e in entries]
    assert ("auth", "password", "password", "accepted") in shown
    assert ("auth", "nobody", "password", "refused") in shown
    assert ("begin", "password", "bash", "accepted") in shown
    assert ("end", "password", "bash", "ERROR") in shown
    assert ("call", "password:reader", "bash", "refused") in shown
    assert all(entry["when"] > 1e12 for entry in entries)
    assert not [entry for entry in entries if entry.get("command") == "core.ping"]
    assert next(e for e in entries if e["what"] == "end")["reason"] == "1003"
    assert "aaa" not in json.dumps(entries)
    assert "nope" not in json.dumps(entries)


async def test_audit_cannot_be_forged_or_flushed(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    client = stack.client("rrr")
    with pytest.raises(ResponseError, match="belongs to a job of the node"):
        await stack.push("core.ping", "audit", client)
    # All in one second, however long it takes.
    monkeypatch.setattr(audits, "time", SimpleNamespace(monotonic=lambda: 7.0, time_ns=time.time_ns))
    for _ in range(300):
        with pytest.raises(NoPermissionError):
            await client.execute_command("bash")
    assert sum(entry.get("command") == "bash" for entry in audit(stack)) == audits.REFUSALS_PER_S
