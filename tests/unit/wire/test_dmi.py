"""dmidecode's output as data."""

import pytest

from g8node.errors import InvalidArgument
from g8node.wire import dmi

SAMPLE = """# dmidecode 3.4
Getting SMBIOS data from sysfs.
SMBIOS 2.8 present.
Table at 0x000F5A70.

Handle 0x0000, DMI type 0, 24 bytes
BIOS Information
\tVendor: SeaBIOS
\tVersion: 1.16.2: debian
\tCharacteristics:
\t\tBIOS characteristics not supported
\t\tTargeted content distribution is supported
\tBIOS Revision: 0.0

Handle 0x0100, DMI type 1, 27 bytes
System Information
\tManufacturer: QEMU
\tProduct Name:

Handle 0x2000, DMI type 32, 11 bytes
System Boot Information
\tStatus: No errors detected

Handle 0x3000, DMI type 221, 12 bytes
OEM-specific Type
\tHeader and Data:
\t\tDD 0C 00 30

Handle 0x7F00, DMI type 127, 4 bytes
End Of Table

"""


def test_sections_have_the_original_shape() -> None:
    parsed = dmi.parse(SAMPLE)
    assert parsed["tooling"]["aggregator"] == "dmidecode 3.4"
    assert [(each["typenum"], each["typestr"]) for each in parsed["sections"]] == [
        (0, "BIOS"),
        (1, "System"),
        (32, "SystemBoot"),
        (221, "Custom Type 221"),
        (127, "Custom Type 127"),
    ]
    assert parsed["sections"][0] == {
        "handleline": "Handle 0x0000, DMI type 0, 24 bytes",
        "typestr": "BIOS",
        "typenum": 0,
        "subsections": [
            {
                "title": "BIOS Information",
                "properties": {
                    "Vendor": {"value": "SeaBIOS"},
                    "Version": {"value": "1.16.2: debian"},
                    "Characteristics": {
                        "value": "",
                        "items": [
                            "BIOS characteristics not supported",
                            "Targeted content distribution is supported",
                        ],
                    },
                    "BIOS Revision": {"value": "0.0"},
                },
            }
        ],
    }


@pytest.mark.parametrize(
    "text",
    ["", "\n\n", "Handle", "\tx: y\n", "Handle 0x0, DMI type 0, 1 bytes", "Handle 0x1, DMI type x, 1 bytes"],
)
def test_odd_output_is_no_error(text: str) -> None:
    assert len(dmi.parse(text)["sections"]) <= 1


def test_two_titles_in_a_section_are_two_subsections() -> None:
    text = "Handle 0x1, DMI type 17, 9 bytes\nFirst\n\ta: 1\nSecond\n\t\tlost\n\tb: 2\n"
    (section,) = dmi.parse(text)["sections"]
    assert section["subsections"] == [
        {"title": "First", "properties": {"a": {"value": "1"}}},
        {"title": "Second", "properties": {"b": {"value": "2"}}},
    ]


def test_keywords_and_numbers_become_types() -> None:
    assert dmi.type_numbers(["bios", 4, "17", "Memory", 4]) == [0, 4, 5, 6, 13, 16, 17]
    assert dmi.type_numbers([]) == []


@pytest.mark.parametrize("word", [43, -1, "43", "no", "", "1.5", "٣"])
def test_wrong_type_is_named(word: int | str) -> None:
    with pytest.raises(InvalidArgument, match=r"types\[1\]"):
        dmi.type_numbers(["bios", word])
