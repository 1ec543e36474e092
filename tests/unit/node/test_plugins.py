"""The file of a container's plugins."""

import pytest

from g8node.errors import InvalidArgument
from g8node.node.plugins import Plugin, find

FILE = """
[plugin.ovs]
path = "/bin/ovs"
queue = true
exports = ["bridge-add", "port_del"]
unknown = 1
"""


def test_exported_function_is_found() -> None:
    plugin = Plugin("/bin/ovs", ["bridge-add", "port_del"], True)
    assert find(FILE, "ovs.bridge-add") == ("ovs", plugin, "bridge-add")
    for command in ("ovs.other", "ovs", "other.bridge-add", "", ".", "ovs.", "a b.c"):
        assert find(FILE, command) is None
    assert find("", "ovs.bridge-add") is None


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "plugin = 1",
        "[plugin.a]\npath = 'relative'\nexports = []",
        "[plugin.a]\npath = '/x'\nexports = ['a b']",
        "[plugin.a]\npath = '/x'",
        "[plugin.'a/b']\npath = '/x'\nexports = []",
        "[plugin.a]\npath = '/x'\nqueue = 'yes'\nexports = []",
        "x = " + "[" * 5000,
    ],
)
def test_file_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"/\.plugin\.toml"):
        find(text, "a.b")
