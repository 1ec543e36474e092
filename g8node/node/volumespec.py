"""Volumes as commands name them (pure)."""

from typing import Annotated, Final

from msgspec import Meta, Struct

SIZE_MIN: Final = 16 << 20  # the smallest file system that mkfs.btrfs makes

VolumeName = Annotated[
    str,
    Meta(
        pattern=r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z",
        extra={"kind": "volume"},
        description="1 to 64 of A-Z a-z 0-9 _ . -, the first a letter or digit",
    ),
]
VolumeSize = Annotated[int, Meta(ge=SIZE_MIN, le=1 << 50, description="bytes; none: no limit")]


class Volume(Struct, frozen=True):
    """What `corex.create` says of one: `size` is of a volume that is not there yet."""

    name: VolumeName
    size: VolumeSize | None = None
    readonly: bool = False
