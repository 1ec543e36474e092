"""Several flists over each other in one root."""

import os
from pathlib import Path

import pytest

from g8node.errors import InvalidArgument
from tests.support.agent import Agent, in_agent

pytestmark = pytest.mark.root


def layer(agent: Agent, name: str, files: dict[str, str]) -> str:
    """A folder that stands for an flist."""
    folder = agent.tmp / name
    folder.mkdir()
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return str(folder)


def whiteout(folder: str, path: str) -> None:
    place = Path(folder) / path
    place.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(place, 0o20000, os.makedev(0, 0))


@in_agent
async def test_later_layer_wins_and_folders_unite(agent: Agent) -> None:
    low = layer(agent, "low", {"opt/a": "low\n", "opt/b": "low\n", "etc/os-release": "low\n", "top": "low\n"})
    high = layer(agent, "high", {"opt/b": "high\n", "opt/deep/c": "high\n", "top/file": "high\n"})
    os.chmod(high, 0o711)
    ended = await agent.run(
        ["sh", "-c", "cat /opt/a /opt/b /opt/deep/c /top/file /etc/os-release; stat -c %a / /etc; ls /opt"],
        layers=[low, high],
    )
    assert ended.out.split() == ["low", "high", "high", "high", "low", "711", "755", "a", "b", "deep"], ended


@in_agent
async def test_layer_takes_away_by_whiteouts_and_opaque_folders(agent: Agent) -> None:
    low = layer(agent, "low", {"opt/a": "low\n", "opt/b": "low\n", "data/old": "low\n"})
    high = layer(agent, "high", {"data/new": "high\n"})
    whiteout(high, "opt/a")
    os.setxattr(f"{high}/data", "trusted.overlay.opaque", b"y")
    ended = await agent.run("ls /opt /data", layers=[low, high])
    assert ended.out.split() == ["/data:", "new", "/opt:", "b"], ended
    # What a layer takes away may be there again in one above it.
    again = layer(agent, "again", {"opt/a": "again\n"})
    assert (await agent.run("cat /opt/a", layers=[low, high, again])).out == "again\n"


@in_agent
async def test_wrong_layers_are_refused_and_leave_nothing(agent: Agent) -> None:
    await agent.run("true")
    before = agent.traces()
    one = layer(agent, "one", {"a": "1"})
    twin = f"file://{one}"
    for layers, message in (
        ([one, one], "layers: one flist is named twice"),
        ([str(agent.root)], "layers: one flist is named twice"),
        ([one, twin], "layers: one flist is named twice"),
        ([""], "layers: expected flists"),
        ([f"{one}{number}" for number in range(17)], "layers: expected at most 16 flists, got 17"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            await agent.start("true", layers=layers)
    assert agent.traces() == before


@in_agent
async def test_sixteen_layers_are_mounted(agent: Agent) -> None:
    layers = [layer(agent, f"l{number}", {f"n/{number}": "", "last": f"{number}\n"}) for number in range(16)]
    ended = await agent.run(["sh", "-c", "ls /n | wc -l; cat /last"], layers=layers)
    assert ended.out.split() == ["16", "15"], ended
