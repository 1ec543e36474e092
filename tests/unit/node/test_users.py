"""Users by a container's own tables."""

import pytest

from g8node.errors import NotFound
from g8node.node.users import ROOT, User, resolve

PASSWD = """\
root:x:0:0::/root:/bin/sh
web:x:33:34::/srv:/bin/sh
broken
:x:5:5::/:
odd:x:9x:1::/:
rel:x:5:5::srv:
"""
GROUP = "root:x:0:\nweb:x:34:web\nmore:x:35:other,web\nodd:x:-1:web\nbig:x:99999999999:web\n"


@pytest.mark.parametrize(
    ("wanted", "user"),
    [
        ("", ROOT),
        ("web", User(33, 34, (34, 35), "/srv")),
        ("33", User(33, 34, (34, 35), "/srv")),
        ("web:more", User(33, 35, (), "/srv")),
        ("77", User(77)),
        ("77:88", User(77, 88)),
        ("rel", User(5, 5)),
    ],
)
def test_user_is_resolved(wanted: str, user: User) -> None:
    assert resolve(wanted, PASSWD, GROUP) == user


@pytest.mark.parametrize("wanted", ["none", "odd", "web:none", "web:odd", "4294967295", "-1", "٣"])
def test_user_that_is_not_there_is_not_found(wanted: str) -> None:
    with pytest.raises(NotFound, match="user: the container has no"):
        resolve(wanted, PASSWD, GROUP)
