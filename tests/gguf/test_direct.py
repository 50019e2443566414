"""Copying past the cache gives the same bytes, whatever the offsets, and tells what fails."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gguf_hub.errors import DiskFullError, GgufError
from gguf_hub.gguf import direct as direct_module
from gguf_hub.gguf import writer
from gguf_hub.gguf.copying import FileRange
from gguf_hub.gguf.direct import Direct, open_direct
from gguf_hub.gguf.format import TensorSpec
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.writer import plan_file, write_gguf

PAGE = 4096
SIZE = 9 << 20


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.bin"
    path.write_bytes(np.random.default_rng(5).bytes(SIZE))
    return path


class Opened:
    """A new file with what copies into it."""

    def __init__(self, path: Path, source: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        found = open_direct(path, self.descriptor, [source])
        if found is None:
            pytest.skip("the test folder's file system does not write past the cache")
        self.direct: Direct = found


@pytest.fixture
def opened(tmp_path: Path, source: Path) -> Iterator[Opened]:
    opened = Opened(tmp_path / "target.bin", source)
    yield opened
    os.close(opened.descriptor)


@pytest.mark.parametrize(
    ("start", "size", "at"),
    [
        (0, SIZE, 0),
        (0, 5 << 20, 3 * PAGE),
        (100, 5 << 20, 100),
        (100, 5 << 20, 2 * PAGE + 100),
        (PAGE - 1, PAGE + 2, PAGE - 1),
        (PAGE - 1, 1, PAGE - 1),
        (PAGE, PAGE, 0),
        (7, 5 << 20, 8),  # out of step: no block is whole in both
        (7, 0, 7),
    ],
)
def test_bytes_arrive(opened: Opened, source: Path, start: int, size: int, at: int) -> None:
    with opened.direct as direct:
        assert sum(direct.copy(FileRange(source, start, size), at)) == size
    written = opened.path.read_bytes()
    assert written[at:] == source.read_bytes()[start : start + size]
    assert not any(written[:at])


def test_neighbours_in_one_page_do_not_disturb_each_other(opened: Opened, source: Path) -> None:
    raw, borders = source.read_bytes(), [0, 1000, 5000, 5001, 5 << 20, (5 << 20) + 77, SIZE]
    with opened.direct as direct:
        for start, end in itertools.pairwise(borders):
            assert sum(direct.copy(FileRange(source, start, end - start), start)) == end - start
    assert opened.path.read_bytes() == raw


def test_a_source_that_ends_early_ends_the_copy(opened: Opened, source: Path) -> None:
    with opened.direct as direct:
        assert sum(direct.copy(FileRange(source, SIZE - 5000, 9000), SIZE - 5000)) == 5000


def test_a_disk_with_larger_blocks_is_written_through_the_cache(
    opened: Opened, source: Path, monkeypatch
) -> None:
    write = os.pwrite

    def picky(descriptor: int, view: memoryview, at: int) -> int:
        if descriptor != opened.descriptor:
            raise OSError(errno.EINVAL, "invalid argument")
        return write(descriptor, view, at)

    monkeypatch.setattr(direct_module.os, "pwrite", picky)
    with opened.direct as direct:
        list(direct.copy(FileRange(source, 0, SIZE), 0))
    assert opened.path.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("n", [1, PAGE, 12345])
def test_short_writes_go_on(opened: Opened, source: Path, monkeypatch, n: int) -> None:
    write = os.pwrite
    size = PAGE * 20
    monkeypatch.setattr(
        direct_module.os, "pwrite", lambda _, view, at: write(opened.descriptor, view[:n], at)
    )
    with opened.direct as direct:
        list(direct.copy(FileRange(source, 0, size), 0))
    assert opened.path.read_bytes() == source.read_bytes()[:size]


def test_a_full_disk_is_told_and_nothing_stays(source: Path, tmp_path: Path, monkeypatch) -> None:
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    Opened(tmp_path / "probe.bin", source).path.unlink()
    monkeypatch.setattr(writer, "LEAST_BYTES", 1)
    monkeypatch.setattr(direct_module.os, "pwrite", full)
    spec = TensorSpec("x", (SIZE - 1000,), QuantType.I8)
    start = plan_file({}, [spec]).data_offset  # in step with where it will stand
    with pytest.raises(DiskFullError, match="no space left"):
        write_gguf(tmp_path / "a.gguf", {}, [(spec, FileRange(source, start, SIZE - 1000))])
    assert [path.name for path in tmp_path.iterdir()] == ["source.bin"]


def test_files_written_past_the_cache_are_like_others(
    source: Path, tmp_path: Path, monkeypatch
) -> None:
    rows = np.arange(1000, dtype=np.float32)
    specs = [
        TensorSpec("ranges", (5 << 20,), QuantType.I8),
        TensorSpec("rows", (1000,), QuantType.F32),
        TensorSpec("one", (SIZE - 1,), QuantType.I8),
    ]
    start = plan_file({}, specs).data_offset  # in step with where it will stand
    two = (FileRange(source, start, 3 << 20), FileRange(source, start, 2 << 20))
    tensors = list(zip(specs, [two, rows, FileRange(source, 1, SIZE - 1)], strict=True))
    write_gguf(tmp_path / "plain.gguf", {}, tensors)
    monkeypatch.setattr(writer, "LEAST_BYTES", 1)
    write_gguf(tmp_path / "direct.gguf", {}, tensors)
    assert (tmp_path / "direct.gguf").read_bytes() == (tmp_path / "plain.gguf").read_bytes()
    assert GgufFile.open(tmp_path / "direct.gguf").tensor_bytes("rows").tobytes() == rows.tobytes()


def test_a_source_shorter_than_promised_is_an_error(
    source: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(writer, "LEAST_BYTES", 1)
    spec = TensorSpec("x", (2 * SIZE,), QuantType.I8)
    with pytest.raises(GgufError, match="bytes of data"):
        write_gguf(tmp_path / "a.gguf", {}, [(spec, FileRange(source, 0, 2 * SIZE))])
    assert [path.name for path in tmp_path.iterdir()] == ["source.bin"]
