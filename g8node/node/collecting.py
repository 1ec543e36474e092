"""Finding and removing what no container owns (async): `core.gc`, the periodic check, the start of a node."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

from g8node.errors import NodeError
from g8node.node import leftovers
from g8node.node.crun import Crun
from g8node.node.leftovers import ORDER, Leftover, Places
from g8node.node.nics import Nics
from g8node.runtime import blocking, logs

log = logs.get("containers")

PERIOD_S: Final = 600.0
_AGAIN_S: Final = 0.5


async def ownerless(places: Places, live: Callable[[], Iterable[int]]) -> list[Leftover]:
    """What belongs to no live container, now and a moment ago, so that nothing just being made or unmade is.

    In the order in which it is to be removed.
    """
    seen = await _found(places, live)
    if seen:
        await asyncio.sleep(_AGAIN_S)
        seen &= await _found(places, live)
    return sorted(seen, key=lambda each: (ORDER.index(each.kind), -each.name.count("/"), each.name))


async def _found(places: Places, live: Callable[[], Iterable[int]]) -> set[Leftover]:
    owners = set(live())  # before the look: who comes later has an id that nothing has yet
    found = await blocking.run("path", leftovers.scan, places)
    owners |= set(live())
    return {each for each in found if each.container not in owners}


async def remove(found: Iterable[Leftover], places: Places, crun: Crun) -> list[dict[str, Any]]:
    """Remove each; what it was, and why it is still there if it is."""
    rows = []
    for each in found:
        row: dict[str, Any] = {"kind": each.kind, "name": each.name, "container": each.container}
        try:
            if each.kind == "runtime":
                await crun.delete(each.name)
            else:
                await blocking.run("path", leftovers.remove, each, places)
        except (NodeError, OSError) as error:
            row["error"] = str(error)
        log.warning("removed what no container owns", **row)
        rows.append(row)
    return rows


async def networks(nics: Nics, live: Callable[[int], bool], *, dry_run: bool) -> list[dict[str, Any]]:
    """As `remove`, of bridges, links, rules and servers."""
    try:
        rows = await nics.collect(live, dry_run=dry_run)
    except (NodeError, OSError) as error:
        log.warning("the networks are not looked at", reason=str(error))
        return []
    for row in rows if not dry_run else ():
        log.warning("removed what nobody owns", **row)
    return rows
