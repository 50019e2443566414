from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gguf_hub.errors import DiskFullError, GgufError, GgufHubError, LockedError
from gguf_hub.gguf import atomic, copying
from gguf_hub.gguf.atomic import new_file
from gguf_hub.gguf.copying import BLOCK_BYTES as BLOCK
from gguf_hub.gguf.copying import FileRange
from gguf_hub.gguf.format import Field, TensorSpec, ValueType
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.writer import plan_file, write_gguf
from gguf_hub.progress import SilentProgress, Task

SPEC = TensorSpec("rows", (32, 2), QuantType.F16)
ROWS = np.arange(64, dtype=np.float16)
needs_posix = pytest.mark.skipif(os.name == "nt", reason="needs locks and links of POSIX")
FIELDS = {"general.architecture": Field.of("llama")}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def chunks() -> Iterator[bytes]:
    raw = ROWS.tobytes()
    yield raw[:50]
    yield raw[50:]


@pytest.mark.parametrize("kind", ["array", "bytes", "chunks", "range", "ranges"])
def test_data_comes_in_many_forms(path: Path, tmp_path: Path, kind: str) -> None:
    other = tmp_path / "other.bin"
    other.write_bytes(b"xx" + ROWS.tobytes() + b"yy")
    forms = {
        "array": ROWS.reshape(2, 32), "bytes": ROWS.tobytes(), "chunks": chunks,
        "range": FileRange(other, 2, 128),
        "ranges": (FileRange(other, 2, 60), FileRange(other, 62, 68)),
    }  # fmt: skip
    second = TensorSpec("last", (3,), QuantType.I8)
    write_gguf(path, FIELDS, [(SPEC, forms[kind]), (second, b"\1\2\3")])
    file = GgufFile.open(path)
    assert file.tensor_bytes("rows").tobytes() == ROWS.tobytes()
    assert file.tensor_bytes("last").tolist() == [1, 2, 3]
    assert file.size_bytes % file.alignment == 0


@pytest.mark.parametrize("alignment", [1, 8, 32, 4096])
def test_alignment_is_kept_and_recorded(path: Path, alignment: int) -> None:
    write_gguf(path, FIELDS, [(TensorSpec("a", (3,), QuantType.I8), b"abc"), (SPEC, ROWS)],
               alignment=alignment)  # fmt: skip
    file = GgufFile.open(path)
    assert file.alignment == alignment
    assert file.tensors["rows"].offset == max(3, alignment)
    assert file.data_offset % alignment == 0
    assert ("general.alignment" in file.fields) == (alignment != 32)


def test_a_huge_alignment_costs_neither_memory_nor_disk(path: Path) -> None:
    write_gguf(path, FIELDS, [(SPEC, ROWS)], alignment=1 << 30)
    file = GgufFile.open(path)
    assert (file.data_offset, file.size_bytes) == (1 << 30, 2 << 30)
    assert file.tensor_bytes("rows").tobytes() == ROWS.tobytes()
    assert path.stat().st_blocks * 512 < 1 << 20


def test_alignment_of_the_metadata_counts(path: Path) -> None:
    fields = {**FIELDS, "general.alignment": Field(ValueType.UINT32, 64)}
    assert plan_file(fields, [SPEC, SPEC]).tensors[1].offset == 128
    assert plan_file(fields, [SPEC], alignment=64).alignment == 64
    assert plan_file(fields, [SPEC], alignment=32).alignment == 32


@pytest.mark.parametrize("raw", [b"short", bytes(129)])
def test_data_of_the_wrong_length_leaves_nothing(path: Path, raw: bytes) -> None:
    path.write_bytes(b"old")
    with pytest.raises(GgufError, match=r"tensor `rows`: \d+ bytes of data.*128"):
        write_gguf(path, FIELDS, [(SPEC, raw)])
    assert path.read_bytes() == b"old"
    assert names(path.parent) == [path.name]


def test_a_range_that_ends_early_is_noticed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "short.bin").write_bytes(b"abc")
    with pytest.raises(GgufError, match="3 bytes of data"):
        write_gguf(path, FIELDS, [(SPEC, FileRange(tmp_path / "short.bin", 0, 128))])
    assert not path.exists()


@pytest.mark.parametrize(
    "field",
    [Field(ValueType.UINT8, 256), Field(ValueType.UINT32, "x"), Field(ValueType.INT8, -200)],
)
def test_a_value_that_its_type_cannot_hold_is_refused(path: Path, field: Field) -> None:
    with pytest.raises(GgufError, match=r"key `a\.b`.*does not fit"):
        write_gguf(path, {"a.b": field}, [])
    assert not path.exists()


@pytest.mark.parametrize("start", [0, 1, BLOCK - 1, BLOCK, BLOCK + 5000])
@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 10**8])
def test_whole_blocks_are_copied_by_themselves(start: int, size: int) -> None:
    at, end, steps = start, start + size, []
    while at < end:
        steps.append((at, copying._step(at, end)))
        at += steps[-1][1]
    assert at == end
    whole = [(a, n) for a, n in steps if a % BLOCK == 0 and n % BLOCK == 0]
    inside = max(0, end // BLOCK * BLOCK - -(-start // BLOCK) * BLOCK)
    assert sum(n for _, n in whole) == inside
    assert len(steps) - len(whole) <= 2


def test_kernel_copy_and_buffer_copy_agree(path: Path, tmp_path: Path, monkeypatch) -> None:
    raw = np.random.default_rng(0).bytes(3 << 20)
    (tmp_path / "a.bin").write_bytes(raw)
    spec = TensorSpec("x", (3 << 20,), QuantType.I8)

    def refuse(*args: object) -> int:
        raise OSError(errno.EXDEV, "not here")

    for patched in (False, True):
        if patched:
            monkeypatch.setattr(copying.os, "copy_file_range", refuse, raising=False)
        write_gguf(path, {}, [(spec, FileRange(tmp_path / "a.bin", 0, len(raw)))])
        assert GgufFile.open(path).tensor_bytes("x").tobytes() == raw


def test_an_error_of_the_disk_while_copying_is_ours(
    path: Path, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(128))

    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(copying.os, "copy_file_range", full, raising=False)
    with pytest.raises(DiskFullError, match="no space left"):
        write_gguf(path, {}, [(SPEC, FileRange(tmp_path / "a.bin", 0, 128))])
    assert names(tmp_path) == ["a.bin"]


def test_space_is_checked_first(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(DiskFullError, match=r"needed, 10 B free") as caught:
        write_gguf(path, FIELDS, [(SPEC, ROWS)])
    assert caught.value.hint
    assert names(path.parent) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GgufHubError, match=r"cannot write .*no such file or directory"):
        write_gguf(tmp_path / "none" / "a.gguf", {}, [])


def test_two_writers_of_one_file_do_not_mix(path: Path) -> None:
    with new_file(path, 1), pytest.raises(LockedError, match="another process"), new_file(path, 1):
        pytest.fail("the second writer came in")
    assert path.exists()


def left_by(path: Path) -> Path:
    """What a process leaves that dies while it writes ``path``."""
    code = (
        "import os, sys, pathlib, signal, gguf_hub.gguf.atomic as a\n"
        f"with a.new_file(pathlib.Path({str(path)!r}), 5000) as new:\n"
        "    os.write(new.descriptor, b'x' * 1000)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    (part,) = path.parent.glob(f"{path.name}.*.part")
    return part


@needs_posix
def test_what_a_killed_writer_left_is_removed(path: Path) -> None:
    part = left_by(path)
    write_gguf(path, FIELDS, [(SPEC, ROWS)])
    assert GgufFile.open(path).tensor_bytes("rows").tobytes() == ROWS.tobytes()
    assert names(path.parent) == [path.name]
    assert not part.exists()


def test_an_empty_leftover_goes_too(path: Path) -> None:
    """A writer that died right after its file was made."""
    path.with_name(f"{path.name}.0123456789abcdef.part").touch()
    write_gguf(path, FIELDS, [(SPEC, ROWS)])
    assert names(path.parent) == [path.name]


@needs_posix
@pytest.mark.parametrize("change", ["another name", "copy", "link", "hard link", "pipe", "folder"])
def test_a_file_that_only_looks_like_a_leftover_stays(path: Path, change: str) -> None:
    part = left_by(path)
    other = path.with_name(f"{path.name}.0123456789abcdef.part")
    keep = path.with_name("keep")
    if change == "hard link":
        keep.hardlink_to(part)
    elif change == "another name":
        part.rename(other)
    elif change == "copy":
        shutil.copy(part, keep)
        keep.replace(part)
    else:
        part.rename(keep)
        if change == "link":
            part.symlink_to(keep)
        else:
            part.mkdir() if change == "folder" else os.mkfifo(part)
    before = set(names(path.parent))
    write_gguf(path, FIELDS, [(SPEC, ROWS)])
    assert set(names(path.parent)) == before | {path.name}


@needs_posix
@pytest.mark.parametrize("kind", ["file", "link", "hard link"])
def test_what_others_keep_beside_the_output_is_not_touched(path: Path, kind: str) -> None:
    precious, part = path.with_name("precious"), path.with_name(f"{path.name}.part")
    precious.write_bytes(b"precious")
    if kind == "file":
        part.write_bytes(b"half a download of another program")
    elif kind == "link":
        part.symlink_to(precious)
    else:
        part.hardlink_to(precious)
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    write_gguf(path, FIELDS, [(SPEC, ROWS)])
    assert {p.name: p.read_bytes() for p in path.parent.iterdir() if p != path} == before


@needs_posix
def test_a_writer_that_was_taken_for_a_leftover_begins_again(path: Path, monkeypatch) -> None:
    """Looked at by another process between its making and its lock, an empty file is removed."""
    lock, seen = atomic._lock, []

    def slow(descriptor: int) -> None:
        if not seen:
            seen.extend(names(path.parent))
            atomic._remove_leftovers(path)
        lock(descriptor)

    monkeypatch.setattr(atomic, "_lock", slow)
    with new_file(path, 6) as new:
        os.write(new.descriptor, b"second")
        assert new.path.name not in seen
    assert (names(path.parent), path.read_bytes()) == ([path.name], b"second")


@needs_posix
def test_of_two_writers_that_begin_at_once_one_goes_on(path: Path) -> None:
    code = (
        "import sys, pathlib, gguf_hub.gguf.atomic as a\n"
        "sys.stdin.readline()\n"
        f"with a.new_file(pathlib.Path({str(path)!r}), 0): sys.stdin.read()\n"
    )
    line, pipe = [sys.executable, "-c", code], subprocess.PIPE
    children = [subprocess.Popen(line, stdin=pipe, stderr=pipe) for _ in range(4)]
    for child in children:
        assert child.stdin
        child.stdin.write(b"\n")
        child.stdin.flush()
    until = time.monotonic() + 60
    while sum(child.poll() is None for child in children) > 1 and time.monotonic() < until:
        time.sleep(0.02)
    told = [(child.returncode, child.communicate()[1]) for child in children]
    assert sorted(code is None for code, _ in told) == [False, False, False, True]
    assert sum(b"another process is writing" in error for _, error in told) == 3
    assert names(path.parent) == [path.name]


def test_a_name_that_was_taken_meanwhile_is_left_alone(path: Path) -> None:
    with pytest.raises(GgufHubError, match="appeared while") as caught, new_file(path, 3) as new:
        os.write(new.descriptor, b"new")
        path.write_bytes(b"of another program")
    assert path.read_bytes() == b"of another program"
    (kept,) = (each for each in path.parent.iterdir() if each != path)
    assert (kept.read_bytes(), str(kept) in str(caught.value.hint)) == (b"new", True)
    with pytest.raises(GgufHubError, match="appeared"), new_file(path, 1, may_replace=False):
        pass
    assert names(path.parent) == sorted([path.name, kept.name])


def test_a_file_that_was_there_is_replaced(path: Path) -> None:
    path.write_bytes(b"old")
    with new_file(path, 3) as new:
        os.write(new.descriptor, b"new")
        assert path.read_bytes() == b"old"
    assert (names(path.parent), path.read_bytes()) == ([path.name], b"new")


class Counting(SilentProgress):
    """Adds up what it is told."""

    total = 0
    done = 0

    def task(self, label: str, total: int | None, *, unit: str = "B", done: int = 0) -> Task:
        self.total = total or 0
        task = super().task(label, total)
        task.advance = self.advance  # type: ignore[method-assign]
        return task

    def advance(self, n: int) -> None:
        self.done += n


def test_progress_reaches_its_total(path: Path) -> None:
    progress = Counting()
    write_gguf(path, FIELDS, [(SPEC, chunks)], progress=progress)
    assert progress.done == progress.total == path.stat().st_size
