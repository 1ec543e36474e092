"""From a source tree through flist, chunks and image to a mounted tree: nothing is lost."""

from pathlib import Path

import pytest

from g8node.flist.image import ImageRef, prepare
from g8node.flist.pack import PackOptions, PackResult, pack
from g8node.runtime import blocking
from tests.support import trees

pytestmark = pytest.mark.root


async def packed(
    source: Path, tmp_path: Path, options: PackOptions | None = None
) -> tuple[PackResult, ImageRef, Path]:
    """Pack, prepare and write out the whole image file."""
    store = trees.DictStore()
    result = await pack(str(source), str(tmp_path / "x.flist"), store, options)
    ref = await blocking.run("cpu", prepare, result.path, str(tmp_path / "cache"))
    image = tmp_path / "image.erofs"
    await blocking.run("cpu", trees.write_image, ref.plan, store.chunks, image)
    return result, ref, image


def mount_and_look(image: Path, at: Path) -> dict[bytes, trees.Look]:
    with trees.mounted(image, at):
        return trees.look(at)


def loop_mount_and_look(image: Path, at: Path) -> dict[bytes, trees.Look]:
    with trees.loop_mounted(image, at):
        return trees.look(at)


async def test_mounted_tree_equals_source_in_every_attribute(tmp_path: Path) -> None:
    source = tmp_path / "source"
    await blocking.run("disk", trees.nasty, source)
    before = await blocking.run("disk", trees.look, source)
    _, _, image = await packed(source, tmp_path)
    await blocking.run("disk", trees.fsck, image)
    after = await blocking.run("path", mount_and_look, image, tmp_path / "mnt")
    assert list(after) == list(before)
    for path, expected in before.items():
        assert after[path] == expected, path


async def test_image_mounts_through_a_loop_device(tmp_path: Path) -> None:
    source = tmp_path / "source"
    await blocking.run("disk", trees.nasty, source)
    _, _, image = await packed(source, tmp_path, PackOptions(level=0))
    after = await blocking.run("path", loop_mount_and_look, image, tmp_path / "mnt")
    assert after == await blocking.run("disk", trees.look, source)


async def test_directory_of_20000_entries_survives(tmp_path: Path) -> None:
    source = tmp_path / "source"
    await blocking.run("disk", trees.crowd, source)
    result, ref, image = await packed(source, tmp_path)
    assert result.entries == 20_001
    assert ref.plan.chunk_count == 20_000
    await blocking.run("disk", trees.fsck, image)
    after = await blocking.run("path", mount_and_look, image, tmp_path / "mnt")
    assert after == await blocking.run("disk", trees.look, source)
