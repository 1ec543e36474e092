"""corex.flist.create: flists of running containers, in a real Hub and a store."""

import asyncio
from pathlib import Path

import pytest

from g8node.flist.container import read_flist
from g8node.flist.tree import walk
from g8node.jobs.model import Caller
from g8node.runtime import blocking
from tests.support.agent import Agent, in_agent
from tests.support.commands import Client
from tests.support.hub import USER_TOKEN, hub
from tests.support.zdb import ZdbModel

pytestmark = pytest.mark.root


@in_agent
async def test_flist_of_a_running_container_goes_to_store_and_hub(agent: Agent) -> None:
    client = Client(agent)
    id = await client.create(
        env={"A": "1"}, workdir="/srv", command=["sh", "-c", "while :; do sleep 9; done"]
    )
    script = "mkdir /out; echo data >/srv/new; rm /etc/os-release; ln -s /etc /srv/link; ln -s / /srv/up"
    assert (await client.inside(id, "bash", {"script": script})).state == "SUCCESS"
    wanted = {"container": id, "src": "/", "flist": "/out/all.flist"}
    with hub(agent.tmp) as running:
        wanted |= {"storage": running.url, "hub": running.url, "token": USER_TOKEN}
        path = Path(await client.call("corex.flist.create", wanted))
        assert path == agent.tmp / f"run/containers/{id}/rootfs/out/all.flist"
        assert [each.parent.name for each in running.data.rglob("all.flist")] == ["alice"]
        refused = await client.send("corex.flist.create", wanted | {"token": "wrong-token-of-nobody"})
        assert refused.state == "ERROR"
    flist = await blocking.run("path", read_flist, str(path))
    assert {"workdir": "/srv", "environ": '{"A":"1"}'}.items() <= dict(flist.info).items()
    assert flist.root.children is not None
    srv, etc = flist.root.children[b"srv"].children, flist.root.children[b"etc"].children
    assert srv is not None
    assert etc is not None
    assert srv.keys() == {b"new", b"link", b"up"}
    assert b"os-release" not in etc
    assert sum(1 for _ in walk(flist.root)) > 100
    # The container goes on, and its file is there for it too.
    assert (await client.inside(id, "filesystem.exists", {"path": "/out/all.flist"})).data == "true"


@in_agent
async def test_flist_of_a_folder_goes_to_a_zdb(agent: Agent) -> None:
    client = Client(agent)
    id = await client.create()
    await client.inside(
        id, "bash", {"script": "mkdir -p /a/b; head -c 100000 /dev/urandom >/a/b/x; ln -s /a /c"}
    )
    async with ZdbModel() as zdb:
        wanted = {"container": id, "src": "/c/b", "flist": "/tmp/x.flist", "storage": f"127.0.0.1:{zdb.port}"}
        path = await client.call("corex.flist.create", wanted)
        assert len(zdb.data["default"]) == 1
        flist = await blocking.run("path", read_flist, path)
        assert (flist.root.children or {}).keys() == {b"x"}
        assert flist.router is not None
        ((rule,),) = flist.router.pools.values()
        assert (str(rule.range), rule.url) == ("00:ff", f"zdb://127.0.0.1:{zdb.port}")
        for change, code in (
            ({"src": "/nothing"}, 404),
            ({"flist": "/nothing/x.flist"}, 404),
            ({"container": 77}, 500),
            ({"hub": "http://127.0.0.1:9"}, 400),
            ({"storage": "dir:///tmp/x"}, 403),
        ):
            caller = Caller("someone", "operator")
            assert (await client.send("corex.flist.create", wanted | change, caller=caller)).code == code


@in_agent
async def test_flist_whose_store_is_silent_is_given_up_by_a_signal(agent: Agent) -> None:
    client = Client(agent)
    id = await client.create()
    held = asyncio.Event()
    writers: list[asyncio.StreamWriter] = []

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        held.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    wanted = {"container": id, "src": "/bin", "flist": "/tmp/x", "storage": f"127.0.0.1:{port}"}
    making = asyncio.create_task(client.send("corex.flist.create", wanted))
    async with asyncio.timeout(60):
        await held.wait()
    (job,) = (each.id for each in client.manager if each.request.command == "corex.flist.create")
    assert await client.call("job.kill", {"id": job, "signal": 15}) is True
    result = await making
    assert (result.code, "signal 15" in result.data) == (503, True)
    assert (await client.inside(id, "bash", {"script": "echo moves; ls /tmp"})).streams == ("moves\n", "")
    server.close()
    for writer in writers:
        writer.transport.abort()
