"""Any tree survives our container, and what v2 and v3 can hold survives those."""

import stat
import tempfile
from array import array
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from g8node.flist.container import Format, read_flist, write_flist
from g8node.flist.convert import losses
from g8node.flist.image import build
from g8node.flist.merkle import merkle_root
from g8node.flist.tree import Flist, Node
from g8node.wire.flist import Blocks, Codec

CHUNK = 512 * 1024
NAMES = st.binary(min_size=1, max_size=12).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
IDS = st.integers(0, (1 << 32) - 1)
MODES = st.integers(0, 0o7777)
SECONDS = st.integers(-(10**10), 10**10)
NANOSECONDS = st.integers(0, 999_999_999)
XATTRS = st.dictionaries(st.sampled_from([b"user.a", b"user.b"]), st.binary(max_size=9), max_size=2)


@st.composite
def files(draw: st.DrawFn, codec: Codec) -> Node:
    size = draw(st.sampled_from([0, 1, CHUNK, CHUNK + 1, 3 * CHUNK]))
    count = -(-size // CHUNK)
    sizes = array("I", [CHUNK] * count)
    if count:
        sizes[-1] = size - (count - 1) * CHUNK
    pad = bytes(16) if codec == Codec.V2 else b"\1" * 16
    # The id tells size and place, so that one id never has two sizes.
    ids = b"".join(b"id %4d %8d" % (n, length) + pad for n, length in enumerate(sizes))
    blocks = Blocks(ids, ids, sizes, codec)
    return Node(stat.S_IFREG | draw(MODES), size=size, blocks=blocks)


@st.composite
def leaves(draw: st.DrawFn, codec: Codec) -> Node:
    kind = draw(st.sampled_from(["file", "link", "fifo", "device"]))
    if kind == "file":
        node = draw(files(codec))
    elif kind == "link":
        target = draw(st.binary(min_size=1, max_size=20).filter(lambda text: b"\0" not in text))
        node = Node(stat.S_IFLNK | 0o777, target=target, size=len(target))
    elif kind == "fifo":
        node = Node(stat.S_IFIFO | draw(MODES))
    else:
        node = Node(
            stat.S_IFCHR | draw(MODES), rdev=(draw(st.integers(0, 4095)), draw(st.integers(0, 1 << 19)))
        )
    return node


@st.composite
def trees(draw: st.DrawFn, codec: Codec) -> Flist:
    def folder(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        names = st.dictionaries(NAMES, children, max_size=4)
        return st.builds(lambda mode, found: Node(stat.S_IFDIR | mode, children=found), MODES, names)

    root = draw(folder(st.recursive(leaves(codec), folder, max_leaves=10)))
    stack, known = [root], []
    while stack:
        node = stack.pop()
        node.uid, node.gid, node.mtime_s = draw(IDS), draw(IDS), draw(SECONDS)
        node.mtime_ns, node.xattrs = draw(NANOSECONDS), draw(XATTRS)
        stack.extend((node.children or {}).values())
        known += [] if node.children is not None else [node]
    if known and draw(st.booleans()) and root.children is not None:
        root.children[b"hard link"] = known[0]
    return Flist(root, {"key": "value"})


def survives(flist: Flist, form: Format) -> Flist:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "x")
        write_flist(flist, path, form)
        return read_flist(path)


@given(trees(Codec.G8))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_tree_survives_our_container(flist: Flist) -> None:
    got = survives(flist, "g8")
    assert merkle_root(got) == merkle_root(flist)
    build(got)


@given(
    st.sampled_from([("v2", Codec.V2), ("v3", Codec.V3)]).flatmap(
        lambda f: st.tuples(st.just(f[0]), trees(f[1]))
    )
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_not_called_lost_survives_the_old_ones(made: tuple[Format, Flist]) -> None:
    form, flist = made
    root = flist.root
    stack = [root]
    while stack:
        node = stack.pop()
        node.mtime_s, node.mtime_ns, node.xattrs = max(node.mtime_s, 0) % (1 << 32), 0, {}
        stack.extend((node.children or {}).values())
    if form == "v2":
        root.mode, root.uid, root.gid = stat.S_IFDIR | 0o755, 0, 0
    if losses(flist, form):
        return
    assert merkle_root(survives(flist, form)) == merkle_root(flist)
