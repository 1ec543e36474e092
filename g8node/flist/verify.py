"""Does a store hold what an flist needs (async)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from g8node.errors import InvalidArgument, NotFound
from g8node.flist.plan import ChunkRef, ImagePlan
from g8node.ids import ChunkId
from g8node.runtime import blocking
from g8node.store.base import Store

_BATCH_IDS: Final = 4096
_BATCH_CONTENT: Final = 16


@dataclass(frozen=True, slots=True)
class Finding:
    """One chunk that is not as it must be."""

    id: ChunkId
    file_name: bytes
    problem: str


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What was checked, and the first findings."""

    chunks: int
    findings: list[Finding]


async def verify(
    plan: ImagePlan,
    store: Store,
    *,
    content: bool = False,
    findings_max: int = 100,
    progress: Callable[[int], object] = lambda _: None,
) -> VerifyResult:
    """Check every chunk's presence, or with `content` fetch and decode each. Unavailable from the store."""
    findings: list[Finding] = []
    references = (plan.chunk(index) for index in range(plan.chunk_count))
    checked = 0
    while batch := _take(references, _BATCH_CONTENT if content else _BATCH_IDS):
        found = await (_contents(batch, store) if content else _presence(batch, store))
        checked += len(batch)
        progress(len(batch))
        findings += found
        if len(findings) >= findings_max:
            break
    return VerifyResult(checked, findings[:findings_max])


def _take(references: Iterator[ChunkRef], count: int) -> list[ChunkRef]:
    return list(islice(references, count))


async def _presence(batch: list[ChunkRef], store: Store) -> list[Finding]:
    missing = await store.missing([reference.stored_as for reference in batch])
    return [Finding(ref.id, ref.file_name, "missing") for ref in batch if ref.stored_as in missing]


async def _contents(batch: list[ChunkRef], store: Store) -> list[Finding]:
    answers = await store.get_many([reference.stored_as for reference in batch])
    findings = []
    for reference in batch:
        answer = answers[reference.stored_as]
        if isinstance(answer, NotFound):
            findings.append(Finding(reference.id, reference.file_name, "missing"))
        elif isinstance(answer, Exception):
            raise answer
        else:
            try:
                await blocking.run("cpu", reference.decode, answer)
            except InvalidArgument as error:
                findings.append(Finding(reference.id, reference.file_name, error.message))
    return findings
