"""What parted, blkid, hdparm, smartctl and /proc/mounts say."""

import pytest

from g8node.wire import disktools


def test_parted_tells_table_and_free_space() -> None:
    found = disktools.parse_parted(
        "BYT;\n/dev/loop0:314572800B:loopback:512:4096:gpt:Loopback device:;\n"
        "1:17408B:1048575B:1031168B:free;\n1:1048576B:157286399B:156237824B::primary:;\n"
        "1:157286400B:314555903B:157269504B:free;\n"
    )
    assert (found["size"], found["blocksize"], found["table"]) == (314572800, 512, "gpt")
    assert found["free"] == [
        {"start": 17408, "end": 1048575, "size": 1031168},
        {"start": 157286400, "end": 314555903, "size": 157269504},
    ]


@pytest.mark.parametrize("text", ["", "BYT;\n", "BYT;\n/dev/sda:1B:scsi:512:512:unknown:x:;\n", "/a:b\n"])
def test_parted_of_a_disk_without_table(text: str) -> None:
    found = disktools.parse_parted(text)
    assert (found["table"], found["free"]) == ("unknown", [])


def test_blkid_tells_the_tags_of_each_device() -> None:
    found = disktools.parse_blkid(
        "DEVNAME=/dev/a\nTYPE=ext4\nLABEL=my\\ disk\n\nDEVNAME=/dev/b\nPTTYPE=gpt\n"
    )
    assert found == {"/dev/a": {"TYPE": "ext4", "LABEL": "my disk"}, "/dev/b": {"PTTYPE": "gpt"}}


@pytest.mark.parametrize(
    ("state", "standby"),
    [
        ("standby", True),
        ("sleeping", True),
        ("active/idle", False),
        ("unknown", None),
    ],
)
def test_power_state(state: str, standby: bool | None) -> None:
    assert disktools.parse_power_state(f"\n/dev/sda:\n drive state is:  {state}\n") is standby


def test_power_state_of_garbage_is_not_known() -> None:
    assert disktools.parse_power_state("HDIO_DRIVE_CMD failed") is None


def test_mounts_are_grouped_by_device() -> None:
    found = disktools.parse_mounts(
        "/dev/sda1 /a\\040b ext4 rw,relatime,errors=continue 0 0\n/dev/sda1 /c ext4 ro 0 0\nbroken\n"
    )
    assert found == {
        "/dev/sda1": [
            {
                "mountpoint": "/a b",
                "filesystem": "ext4",
                "options": {"rw": "1", "relatime": "1", "errors": "continue"},
            },
            {"mountpoint": "/c", "filesystem": "ext4", "options": {"ro": "1"}},
        ]
    }


def test_smart_information_of_a_drive() -> None:
    found = disktools.smart_information(
        {
            "device": {"name": "/dev/sda"},
            "model_name": "M",
            "serial_number": "S",
            "wwn": {"naa": 5, "oui": 0xC500, "id": 0x1234},
            "firmware_version": "F",
            "user_capacity": {"blocks": 1, "bytes": 512},
            "logical_block_size": 512,
            "rotation_rate": 7200,
            "smart_support": {"available": True, "enabled": True},
        }
    )
    assert found["rotation_rate"] == "7200 rpm"
    assert found["device_id"] == "500c500000001234"
    assert (found["user_capacity"], found["smart_support_enabled"]) == (512, True)


def test_smart_information_of_a_silent_drive_is_empty() -> None:
    found = disktools.smart_information({})
    assert (found["model"], found["user_capacity"], found["smart_support_available"]) == ("", 0, False)
    assert disktools.smart_information({"rotation_rate": 0})["rotation_rate"] == "Solid State Device"
