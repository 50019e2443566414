"""The small things that a transfer is made of."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.gguf import reserve
from gguf_hub.hub.download import limits
from gguf_hub.hub.download.journal import Journal, ResumeState, journal_of, read_journal
from gguf_hub.hub.download.limits import RateLimit
from gguf_hub.hub.download.partfile import PartFile
from gguf_hub.hub.download.segment_hashes import SegmentHashStore
from gguf_hub.hub.download.segment_queue import SegmentQueue
from gguf_hub.hub.download.segments import SegmentHashes, Segments, merge_ranges
from gguf_hub.units import GB, KIB, MIB
from tests.hub_server import sha256

SEGMENTS = Segments(95, 10)
HASHES = [sha256(bytes([n])) for n in range(10)]


@given(st.integers(0, 10**5), st.integers(100, 10**5))
def test_segments_cover_a_file_once(size_bytes: int, segment_bytes: int) -> None:
    segments = Segments(size_bytes, segment_bytes)
    edges = [(segments.start(i), segments.stop(i)) for i in range(min(len(segments), 50))]
    assert all(a < b <= size_bytes for a, b in edges)
    assert all(left[1] == right[0] for left, right in pairwise(edges))
    assert merge_ranges(segments, list(range(len(segments)))) == (
        [(0, size_bytes)] if size_bytes else []
    )


def test_large_files_have_large_segments_and_small_ones_small() -> None:
    assert Segments.of_size(26 * GB).segment_bytes == 16 * MIB
    assert Segments.of_size(10).segment_bytes == MIB
    assert len(Segments.of_size(200 * MIB)) >= 64


def test_neighbours_are_joined() -> None:
    assert merge_ranges(SEGMENTS, [9, 0, 1, 5]) == [(0, 20), (50, 60), (90, 95)]


def test_a_journal_tells_what_was_written(tmp_path: Path) -> None:
    part = tmp_path / "part"
    journal = Journal(part, "etag", ResumeState(SEGMENTS, {1: HASHES[1]}, {1}))
    journal.add(0, HASHES[0])
    journal.add_start(3, 4, HASHES[3])
    journal.add(5, HASHES[5])
    journal.forget(5)
    journal.add_start(9, 5, HASHES[9])  # all that the last segment has
    journal.close()
    state = read_journal(part, "etag", 95)
    assert state is not None
    assert state.done == {0: HASHES[0], 1: HASHES[1], 9: HASHES[9]}
    assert (state.adopted, set(state.starts)) == ({1}, {3})
    assert state.have_bytes == 10 + 10 + 5 + 4
    assert read_journal(part, "another", 95) is None
    assert read_journal(part, "etag", 96) is None


@given(st.binary(max_size=300), st.integers(0, 400))
def test_no_damage_to_a_journal_makes_it_lie_about_its_size(junk: bytes, at: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part"
        journal = Journal(part, "etag", ResumeState(SEGMENTS, dict(enumerate(HASHES))))
        journal.close()
        data = journal_of(part).read_bytes()
        journal_of(part).write_bytes(data[:at] + junk + data[at:])
        state = read_journal(part, "etag", 95)
    assert state is None or (state.have_bytes <= 95 + 10 and state.segments.size_bytes == 95)


def test_a_part_is_written_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "part"
    with PartFile(path, 20) as part:
        part.write(memoryview(b"b" * 10), 10)
        part.write(memoryview(b"a" * 10), 0)
        found = memoryview(bytearray(5))
        assert part.read(found, 8) == 5
        assert bytes(found) == b"aabbb"
    assert path.read_bytes() == b"a" * 10 + b"b" * 10
    with PartFile(path, 12, is_compare=True) as part:
        part.write(memoryview(b"a" * 5), 0)
        assert part.n_changed_bytes == 0
        part.write(memoryview(b"x" * 5), 7)
        assert part.n_changed_bytes == 5
    assert path.read_bytes() == b"aaaaaaaxxxxx"


def test_a_part_is_written_without_positional_calls_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pwrite")
    monkeypatch.delattr(os, "preadv")
    monkeypatch.setattr(reserve, "_fallocate", lambda fd, size_bytes: False)
    test_a_part_is_written_in_any_order(tmp_path)


def test_a_disk_that_has_no_room_says_so_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        PartFile(tmp_path / "part", 10**17)
    assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)


class Clock(threading.Event):
    """A clock that goes on when somebody waits, and by hand."""

    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def wait(self, timeout: float | None = None) -> bool:
        self.now_s += timeout or 0.0
        return False


def test_a_rate_is_exact_but_for_a_tenth_of_a_second_after_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(limits, "time", clock)
    limit = RateLimit(1_000_000)
    for pause_s in (0.0, 0.05, 10.0):
        start = clock.now_s = clock.now_s + pause_s
        for _ in range(100):
            limit.take(10_000, clock)
        assert clock.now_s - start == pytest.approx(1.0 - min(pause_s, 0.1))
    assert limit.window_bytes(1000) == 16 * KIB


def test_threads_share_one_rate() -> None:
    limit, never = RateLimit(1_000_000), threading.Event()
    start = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: limit.take(10_000, never), range(50)))
    assert time.monotonic() - start >= 0.38


def test_a_wait_for_the_rate_can_be_ended() -> None:
    limit, now = RateLimit(0.001), threading.Event()
    now.set()
    limit.take(1000, now)  # else it would take eleven days


@pytest.mark.parametrize(
    "change",
    [{"version": 9}, {"segment_bytes": 0}, {"sha256": HASHES[:3]}, {"sha256": ["x"] * 10}, None],
)
def test_kept_hashes_that_make_no_sense_are_passed_over(
    tmp_path: Path, change: dict[str, object] | None
) -> None:
    book = SegmentHashStore(tmp_path)
    hashes = SegmentHashes(SEGMENTS, tuple(HASHES))
    assert book.find("whole") is None
    book.add("whole", hashes)
    assert book.find("whole") == hashes
    path = tmp_path / "segments" / "whole.json"
    row = json.loads(path.read_text())
    path.write_text("[" if change is None else json.dumps(row | change))
    assert book.find("whole") is None


# --- the queue


def test_who_comes_too_late_writes_no_more() -> None:
    queue = SegmentQueue(SEGMENTS, {}, [], 1)
    written: list[int] = []
    queue.while_open(lambda: written.append(1))
    queue.seal()
    queue.while_open(lambda: written.append(2))
    assert written == [1]
