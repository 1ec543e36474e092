"""From a vdisk's configuration to its blocks (async)."""

from g8node.vdisk.cluster.blocks import Blocks, PlainBlocks
from g8node.vdisk.cluster.content import ContentBlocks
from g8node.vdisk.cluster.events import Tell
from g8node.vdisk.cluster.fields import Fields
from g8node.vdisk.cluster.layout import plain_key, sectors_key
from g8node.vdisk.cluster.locks import Locks
from g8node.vdisk.cluster.member import Patience
from g8node.vdisk.cluster.mirror import Mirror
from g8node.vdisk.cluster.settings import Vdisk
from g8node.vdisk.cluster.slotmirror import SlotMirror
from g8node.vdisk.cluster.template import Template, template_of


async def open_blocks(vdisk: Vdisk, locks: Locks, *, patience: Patience, tell: Tell) -> Blocks:
    """As the original chose: boot vdisks are deduplicated. Only boot and db vdisks have a template.

    Unavailable when it cannot be told which servers have the newest blocks.
    """
    static = vdisk.static
    deduplicated = static.type == "boot"
    key = sectors_key(vdisk.id) if deduplicated else plain_key(vdisk.id)
    mirror = await _open_fields(vdisk, key, patience, tell)
    template: Template | None = None
    has_template = vdisk.template is not None or (static.template and not deduplicated)
    if has_template and static.type in ("boot", "db"):
        source = plain_key(static.template or vdisk.id)
        template = template_of(vdisk.template, key=source, vdisk=vdisk.id, patience=patience, tell=tell)
    keep = not static.read_only
    if deduplicated:
        return ContentBlocks(mirror, template, locks, keep=keep)
    return PlainBlocks(mirror, template, locks, keep=keep)


async def _open_fields(vdisk: Vdisk, key: str, patience: Patience, tell: Tell) -> Fields:
    read_only = vdisk.static.read_only
    if vdisk.storage.has_slots:
        slots = SlotMirror(
            vdisk.storage, vdisk=vdisk.id, key=key, role="primary", patience=patience, tell=tell
        )
        await slots.open(read_only=read_only)
        return slots
    mirror = Mirror(vdisk.id, key, patience=patience, tell=tell, read_only=read_only)
    await mirror.open(vdisk.storage, vdisk.slave)
    return mirror
