"""What is kept of a process's output."""

from g8node.jobs.runs import STREAM_CHUNKS, STREAM_CHUNKS_LEAST, Store, Tail
from g8node.runtime.stdio import CHUNK_BYTES

CHUNK = "x" * CHUNK_BYTES


def test_tail_keeps_as_much_of_output_that_arrives_in_pieces_of_any_size() -> None:
    """A reader takes what is there at the moment: a chunk may not stay half empty for that."""
    most = STREAM_CHUNKS * CHUNK_BYTES
    for piece in (1000, CHUNK_BYTES // 2 + 1, CHUNK_BYTES, 3 * CHUNK_BYTES - 1):
        tail = Tail(Store())
        whole = "".join(f"{number:07d}\n" for number in range(most // 8))
        for start in range(0, most, piece):
            tail.add(whole[start : start + piece])
        assert tail.text() == whole, piece


def test_tail_keeps_its_last_chunks_and_gives_all_back() -> None:
    store = Store()
    tail = Tail(store)
    for number in range(STREAM_CHUNKS + 50):
        tail.add(str(number % 10) * CHUNK_BYTES)
    text = tail.text()
    assert len(text) == STREAM_CHUNKS * CHUNK_BYTES
    assert text.endswith("9" * CHUNK_BYTES)
    assert store.used >= len(text)
    tail.close()
    assert store.used == 0


def test_tails_share_what_may_be_kept() -> None:
    store = Store(most=20 * CHUNK_BYTES)
    tails = [Tail(store) for _ in range(20)]
    for _ in range(STREAM_CHUNKS):
        for tail in tails:
            tail.add(CHUNK)
    kept = [len(tail.text()) // CHUNK_BYTES for tail in tails]
    assert set(kept) == {STREAM_CHUNKS_LEAST}
    for tail in tails[1:]:
        tail.close()
    for _ in range(STREAM_CHUNKS):
        tails[0].add(CHUNK)
    assert len(tails[0].text()) // CHUNK_BYTES > STREAM_CHUNKS_LEAST
    tails[0].close()
    assert store.used == 0
