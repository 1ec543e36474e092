"""What the btrfs command prints."""

from g8node.wire import btrfs

SHOW = """\
warning, device 3 is missing
Label: 'pool one'  uuid: 8ef49818-01d1-4b24-a1ad-0fb16315fc0c
\tTotal devices 3 FS bytes used 147456
\tdevid    1 size 156237824 used 50331648 path /dev/loop0p1
\tdevid    2 size 314572800 used 41943040 path /dev/mapper/a b
\t*** Some devices missing

Label: none  uuid: 11111111-01d1-4b24-a1ad-0fb16315fc0c
\tTotal devices 1 FS bytes used 0
\tdevid    1 size 1 used 0 path /dev/sdb
"""


def test_show_tells_every_file_system_and_what_is_missing() -> None:
    first, second = btrfs.parse_show(SHOW)
    assert (first["label"], first["total_devices"], first["used"]) == ("pool one", 3, 147456)
    assert first["warnings"] == "*** Some devices missing"
    assert first["devices"] == [
        {"dev_id": 1, "size": 156237824, "used": 50331648, "path": "/dev/loop0p1"},
        {"dev_id": 2, "size": 314572800, "used": 41943040, "path": "/dev/mapper/a b"},
    ]
    assert (second["label"], second["warnings"], len(second["devices"])) == ("none", "", 1)


def test_show_of_nothing_is_empty() -> None:
    assert btrfs.parse_show("") == []
    assert btrfs.parse_show("ERROR: no btrfs\n\tdevid 1 size 1 used 1 path /x\n") == []


def test_df_tells_profile_and_bytes_of_each_group() -> None:
    found = btrfs.parse_df(
        "Data, single: total=8388608, used=5\nSystem, RAID1: total=8388608, used=16384\n"
        "Metadata, RAID1: total=33554432, used=131072\nMetadata, single: total=10, used=1\n"
        "GlobalReserve, single: total=5767168, used=0\n"
    )
    assert found["data"] == {"profile": "single", "total": 8388608, "used": 5}
    assert found["metadata"] == {"profile": "raid1", "total": 33554442, "used": 131073}
    assert found["globalreserve"]["total"] == 5767168


def test_df_of_mixed_groups_counts_for_data_and_metadata() -> None:
    found = btrfs.parse_df("Data+Metadata, single: total=8, used=5\n")
    assert found["data"] == found["metadata"] == {"profile": "single", "total": 8, "used": 5}
    assert found["system"] == {"profile": "", "total": 0, "used": 0}


def test_subvolumes_keep_spaces_in_paths() -> None:
    assert btrfs.parse_subvolumes("ID 256 gen 8 top level 5 path a b/c\nnoise\n") == [
        {"ID": 256, "Gen": 8, "TopLevel": 5, "Path": "a b/c", "Quota": 0}
    ]


def test_quotas_of_both_generations_of_the_tool() -> None:
    old = "qgroupid         rfer         excl     max_rfer     max_excl \n0/256 16384 16384 10485760 none\n"
    new = (
        "Qgroupid    Referenced    Exclusive  Max referenced  Max exclusive   Path \n"
        "0/5              16384        16384            none           none   <toplevel>\n"
        "0/257            16384        16384            2048           none   a\n"
        "1/0              16384        16384            4096           none   <0 member qgroups>\n"
    )
    assert btrfs.parse_quotas(old) == {256: 10485760}
    assert btrfs.parse_quotas(new) == {257: 2048}
