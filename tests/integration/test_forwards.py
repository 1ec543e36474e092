"""Port forwards by real packets: a node in a network namespace, a server in another one behind a bridge."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.root
TOP = Path(__file__).resolve().parent.parent.parent

SCENARIO = """
import asyncio, contextlib, socket, uvloop
from g8node.errors import NodeError
from g8node.linux import namespace, netlink
from g8node.node.claim import Claim
from g8node.node.firewall import Firewall
from g8node.runtime import blocking
from g8node.runtime.process import Reaper
from g8node.wire import forward, nft

def listener(address):
    return socket.create_server(address)

def answer(server):
    with server, server.accept()[0] as peer:
        peer.sendall(peer.getpeername()[0].encode())

def hearer():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("0.0.0.0", 80))
    server.settimeout(1)
    return server

def heard(client, server):
    for _ in range(60):
        try:
            client.send(b"hello")
        except ConnectionRefusedError:  # what was sent before found nobody
            continue
        try:
            return server.recv(100)
        except TimeoutError:
            continue
    raise AssertionError("nobody heard it")

async def who_goes_on_sending_is_heard(firewall, inner):
    # By the server behind a forward that came, or came again, while the client was sending.
    with await blocking.run("disk", namespace.call_in, [inner], hearer) as server:
        for host in ("127.0.0.1", "172.18.0.1"):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.connect((host, 8053))
                client.send(b"early")
                for _ in range(2):
                    await firewall.forward("container 1", forward.parse("8053|udp"), "172.18.0.2", 80)
                    assert await blocking.run("pipes", heard, client, server) == b"hello"
                    await firewall.remove("container 1")
                    with contextlib.suppress(ConnectionRefusedError):
                        client.send(b"early")

def set_up():
    inner = namespace.new_network()
    netlink.bridge_add("core0", "02:00:00:00:00:01")
    netlink.link_configure("core0", ["172.18.0.1/16"], [], 0)
    netlink.veth_add("cont1-0", "core0", "eth0", inner, "02:00:00:00:00:02")
    namespace.call_in([inner], netlink.link_configure, "eth0", ["172.18.0.2/16"], ["172.18.0.1"], 0)
    with open("/proc/sys/net/ipv4/conf/core0/route_localnet", "w") as file:
        file.write("1")
    return inner

def ask(host):
    with socket.create_connection((host, 8080), timeout=60) as client:
        return client.recv(100).decode()

async def main():
    reaper = Reaper(orphans=True)
    reaper.install()
    inner = await blocking.run("disk", set_up)
    firewall = Firewall(reaper, Claim(), closed=True)
    await firewall.add("bridge core0", nft.masquerade(["172.18.0.0/16"], "core0", "bridge core0"))
    await firewall.forward("container 1", forward.parse("8080"), "172.18.0.2", 80)
    assert firewall.forwards("container 1") == {"8080": 80}
    try:
        await firewall.forward("container 2", forward.parse("lo:8080|udp"), "172.18.0.3", 80)
    except NodeError as error:
        assert "port 8080 already in use" in str(error), error
    else:
        raise AssertionError("a port was forwarded twice")
    for host, seen in (("127.0.0.1", "172.18.0.1"), ("172.18.0.1", "172.18.0.1")):
        server = await blocking.run("disk", namespace.call_in, [inner], listener, ("0.0.0.0", 80))
        serving = asyncio.create_task(blocking.run("pipes", answer, server))
        assert await blocking.run("disk", ask, host) == seen
        await serving
    await firewall.remove("container 1")
    await who_goes_on_sending_is_heard(firewall, inner)
    await firewall.forward("container 1", forward.parse("8080"), "172.18.0.2", 80)
    taken = await blocking.run("disk", listener, ("0.0.0.0", 9090))
    try:
        await firewall.forward("container 1", forward.parse("9090"), "172.18.0.2", 80)
    except NodeError as error:
        assert "a server of the node has it" in str(error), error
    else:
        raise AssertionError("a busy port was forwarded")
    await firewall.remove("container 1")
    assert await firewall.rules("prerouting") == [] and await firewall.rules("output") == []
    await firewall.remove("bridge core0")
    assert await firewall.rules("postrouting") == []
    await firewall.close()
    taken.close()

uvloop.run(asyncio.wait_for(main(), 180))
blocking.close()
print("done")
"""


def test_forward_reaches_a_namespace_from_the_node_itself_and_is_removed() -> None:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", SCENARIO],
        cwd=TOP,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.stdout == "done\n", done.stderr
