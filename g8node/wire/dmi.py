"""What dmidecode prints, as data (pure).

    # dmidecode 3.4
    Handle 0x0000, DMI type 0, 24 bytes
    BIOS Information
    <TAB>Vendor: SeaBIOS
    <TAB>Characteristics:
    <TAB><TAB>PCI is supported

A line that fits nowhere is passed over: firmware writes these strings.
"""

import re
from typing import Any, Final

from g8node.errors import InvalidArgument

TYPE_MAX: Final = 42
DECODER: Final = "g8node dmi decoder 1"

# Index = DMI type; the words are the original's, misspelling included, since clients compare with them.
_TYPES: Final = (
    *("BIOS", "System", "Baseboard", "Chassis", "Processor", "MemoryController", "MemoryModule", "Cache"),
    *("PortConnector", "SystemSlots", "OnBoardDevices", "OEMSettings", "SystemConfigurationOptions"),
    *("BIOSLanguage", "GroupAssociations", "SystemEventLog", "PhysicalMemoryArray", "MemoryDevice"),
    *("32BitMemoryError", "MemoryArrayMappedAddress", "MemoryDeviceMappedAddress"),
    *("BuiltinPointingDevice", "PortableBattery", "SystemReset", "HardwareSecurity", "SystemPowerControls"),
    *("VoltageProbe", "CoolingDevice", "TempratureProbe", "ElectricalCurrentProbe"),
    *("OutOfBandRemoteAccess", "BootIntegrityServices", "SystemBoot", "64BitMemoryError"),
    *("ManagementDevice", "ManagementDeviceComponent", "ManagementThresholdData", "MemoryChannel"),
    *("IPMIDevice", "PowerSupply", "AdditionalInformation", "OnboardDeviceExtendedInformation"),
    "ManagementControllerHostInterface",
)

# dmidecode(8), "DMI types": what each keyword stands for.
KEYWORDS: Final = {
    "bios": (0, 13),
    "system": (1, 12, 15, 23, 32),
    "baseboard": (2, 10, 41),
    "chassis": (3,),
    "processor": (4,),
    "memory": (5, 6, 16, 17),
    "cache": (7,),
    "connector": (8,),
    "slot": (9,),
}

_HANDLE: Final = re.compile(r"Handle 0x[0-9A-Fa-f]+, DMI type (\d{1,3}), \d+ bytes")


def type_numbers(types: list[int | str]) -> list[int]:
    """Numbers and keywords (or numbers as text) as numbers; InvalidArgument names the one that is wrong."""
    numbers: list[int] = []
    for at, word in enumerate(types):
        if isinstance(word, str) and word.lower() in KEYWORDS:
            numbers += KEYWORDS[word.lower()]
            continue
        if isinstance(word, str) and not re.fullmatch(r"[0-9]{1,2}", word):
            known = ", ".join(KEYWORDS)
            raise InvalidArgument(f"types[{at}]: unknown keyword {word[:40]!r}", hint=f"expected {known}")
        if not 0 <= int(word) <= TYPE_MAX:
            raise InvalidArgument(f"types[{at}]: expected 0..{TYPE_MAX}, not {word}")
        numbers.append(int(word))
    return sorted(set(numbers))


def parse(text: str) -> dict[str, Any]:
    """`{tooling, sections}` as info.dmi answers (spec core0-protocol 4.2)."""
    lines = text.splitlines()
    tool = next((line.lstrip("# ") for line in lines if line.startswith("#")), "unknown")
    sections: list[dict[str, Any]] = []
    block: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line)
            continue
        sections += _section(block)
        block = []
    return {"tooling": {"aggregator": tool, "decoder": DECODER}, "sections": sections}


def _section(block: list[str]) -> list[dict[str, Any]]:
    """None or one: a block that begins with a handle line, comments before it passed over."""
    start = next((at for at, line in enumerate(block) if _HANDLE.fullmatch(line)), None)
    if start is None:
        return []
    match = _HANDLE.fullmatch(block[start])
    assert match is not None
    number = int(match[1])
    return [
        {
            "handleline": block[start],
            "typestr": _TYPES[number] if number < len(_TYPES) else f"Custom Type {number}",
            "typenum": number,
            "subsections": _subsections(block[start + 1 :]),
        }
    ]


def _subsections(lines: list[str]) -> list[dict[str, Any]]:
    subsections: list[dict[str, Any]] = []
    last: dict[str, Any] | None = None
    for line in lines:
        depth = len(line) - len(line.lstrip("\t"))
        if depth == 0:
            subsections.append({"title": line.strip(), "properties": {}})
            last = None
        elif depth == 1 and subsections:
            name, _, value = line.strip().partition(":")
            last = {"value": value.strip()}
            subsections[-1]["properties"][name.strip()] = last
        elif last is not None:
            last.setdefault("items", []).append(line.strip())
    return subsections
