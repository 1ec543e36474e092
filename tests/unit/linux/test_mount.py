"""The mount table's text form."""

from g8node.linux.mount import parse_mountinfo


def test_mountinfo_fields_and_escapes() -> None:
    text = (
        "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
        "40 36 0:40 / /run/g8ufs ro shared:2 master:3 - fuse g8ufs ro,user_id=0\n"
    )
    first, second = parse_mountinfo(text)
    assert (first.mount_id, first.parent_id, first.device) == (36, 35, "98:0")
    assert (first.root, first.target, first.options) == ("/mnt1", "/mnt 2", "rw,noatime")
    assert (first.fstype, first.source, first.super_options) == ("ext3", "/dev/root", "rw,errors=continue")
    assert (second.fstype, second.target) == ("fuse", "/run/g8ufs")
