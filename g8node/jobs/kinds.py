"""Kinds of argument fields (pure): what `Annotated` says, msgspec refuses with the field's name (400)."""

from typing import Annotated, Final

from msgspec import Meta

LinkName = Annotated[
    str,
    Meta(
        extra={"kind": "link"},
        pattern=r"\A(?!\.{1,2}\Z)[!-$&-.0-9;-~]{1,15}\Z",
        description="A network link: 1 to 15 printable characters without '/', ':' and '%'.",
    ),
]
OptionalLinkName = Annotated[
    str,
    Meta(
        extra={"kind": "link or empty"},
        pattern=r"\A(?:|(?!\.{1,2}\Z)[!-$&-.0-9;-~]{1,15})\Z",
        description="As LinkName, or empty.",
    ),
]
OptionalMac = Annotated[
    str,
    Meta(
        extra={"kind": "mac or empty"},
        pattern=r"\A(?:|[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5})\Z",
        description="A MAC address, or empty.",
    ),
]
Mac = Annotated[
    str,
    Meta(
        extra={"kind": "mac"},
        pattern=r"\A[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}\Z",
        description="A MAC address.",
    ),
]
_IP4: Final = r"(?:(?:25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])(?:\.(?!\Z)|\Z)){4}"
Ip4 = Annotated[str, Meta(extra={"kind": "ipv4"}, pattern=rf"\A{_IP4}\Z", description="An IPv4 address.")]
OptionalIp4 = Annotated[
    str,
    Meta(
        extra={"kind": "ipv4 or empty"}, pattern=rf"\A(?:|{_IP4})\Z", description="An IPv4 address, or empty."
    ),
]
OptionalInterface = Annotated[
    str,
    Meta(extra={"kind": "interface address or empty"}, max_length=64, description="address/prefix, or empty"),
]
OptionalNetwork = Annotated[
    str,
    Meta(
        extra={"kind": "network or empty"},
        max_length=64,
        description="network/prefix of IPv4; empty: any",
    ),
]
Mtu = Annotated[int, Meta(ge=68, le=65535)]
AbsolutePath = Annotated[
    str,
    Meta(
        extra={"kind": "absolute path"},
        pattern=r"\A/[^\x00]*\Z",
        max_length=4095,
        description="An absolute path.",
    ),
]
Device = Annotated[
    str,
    Meta(
        extra={"kind": "device"},
        pattern=r"\A(?:/[^\x00]+|[A-Za-z0-9][A-Za-z0-9!._-]*)\Z",
        max_length=4095,
        description="A block device: an absolute path, or its name below /dev.",
    ),
]
OptionalDevice = Annotated[
    str,
    Meta(
        pattern=r"\A(?:|/[^\x00]+|[A-Za-z0-9][A-Za-z0-9!._-]*)\Z",
        max_length=4095,
        extra={"kind": "device or empty"},
    ),
]
FlistName = Annotated[
    str,
    Meta(
        max_length=4095,
        pattern=r"\A(?:/|file:///|https?://)[^\x00]*\Z",
        extra={"kind": "flist"},
        description="/path, file:///path, http://... or https://...",
    ),
]
