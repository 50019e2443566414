"""Saved prompts: what was written is read, and nothing else is believed or written over."""

from __future__ import annotations

import io
import os
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_hub.errors import GgufHubError
from gguf_hub.run.generation.saved_prompt import SIGNATURE, UnusableError, read, write

TOKENS = [1, 5, 99]
Generation = Callable[..., tuple[int, str, str]]


class Model:
    """A cache of three numbers for each position."""

    n_ctx = 8
    config = SimpleNamespace(n_vocab=100)

    def cache_size(self, n_positions: int) -> int:
        return 3 * n_positions

    def save_cache(self, n_positions: int) -> Any:
        return np.arange(self.cache_size(n_positions), dtype=np.uint16)


MODEL: Any = Model()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "prompt.cache"


@pytest.fixture
def saved(path: Path) -> Path:
    write(path, TOKENS, MODEL, "model")
    return path


@pytest.mark.slow
@settings(max_examples=20, deadline=None)  # each is brought to the disk
@given(st.lists(st.integers(0, 99), max_size=8))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "prompt.cache"
    write(path, tokens, MODEL, "model")
    found = read(path, MODEL, "model")
    assert found.tokens == tokens
    assert found.cache.tolist() == list(range(3 * len(tokens)))


def test_one_of_another_model_is_told_and_replaced(saved: Path) -> None:
    with pytest.raises(UnusableError, match="another model"):
        read(saved, MODEL, "other")
    write(saved, [7], MODEL, "other")
    assert read(saved, MODEL, "other").tokens == [7]


# -- what is read ---------------------------------------------------------------------------------


def test_no_damage_is_believed(saved: Path) -> None:
    whole = saved.read_bytes()
    for at in range(len(whole)):
        saved.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with pytest.raises(UnusableError):
            read(saved, MODEL, "model")
        saved.write_bytes(whole[:at])
        with pytest.raises(UnusableError):
            read(saved, MODEL, "model")
    saved.write_bytes(whole + b"!")
    with pytest.raises(UnusableError, match="is damaged"):
        read(saved, MODEL, "model")


def crafted(saved: Path, tokens: Any, n_numbers: int, *, n_tokens: int | None = None) -> None:
    """Write a file whose signature, hash and checksum are right."""
    import zlib

    raw = np.asarray(tokens, "<i8")
    numbers = np.zeros(min(n_numbers, 100), "<u2")
    head = bytearray(saved.read_bytes()[:76])
    count = len(raw) if n_tokens is None else n_tokens
    struct.pack_into("<QQI", head, 56, count, n_numbers, zlib.crc32(numbers, zlib.crc32(raw)))
    saved.write_bytes(bytes(head) + raw.tobytes() + numbers.tobytes())


@pytest.mark.parametrize(
    ("tokens", "n_numbers", "n_tokens"),
    [
        ([-5], 3, None), ([100], 3, None), ([2**62], 3, None), ([-(2**63)], 3, None),
        ([1] * 9, 27, None), ([1], 4, None), ([1], 0, None), ([1], 3, 2**63), ([1], 2**63, None),
        ([1], 3, 0), ([], 3 * 10**9, None),
    ],
)  # fmt: skip
def test_a_crafted_one_is_not_used(
    saved: Path, tokens: list[int], n_numbers: int, n_tokens: int | None
) -> None:
    crafted(saved, tokens, n_numbers, n_tokens=n_tokens)
    with pytest.raises(UnusableError, match="is damaged"):
        read(saved, MODEL, "model")


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.cache"
    for start in (b"", SIGNATURE):
        path.write_bytes(start + tail)
        with pytest.raises(UnusableError):
            read(path, MODEL, "model")


# -- what is written over -------------------------------------------------------------------------


def npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


FOREIGN = {
    "text": b"my only copy\n",
    "model": b"GGUF\3\0\0\0" + bytes(100),
    "part of the signature": SIGNATURE[:-1],
    "zip": npz(model=np.array("x"), tokens=np.arange(3), cache=np.zeros(9, np.uint16)),
    "pickle": npz(model=np.array([{"a": 1}], object)),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_saved_prompt_is_not_replaced(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(GgufHubError, match="is not a prompt cache: it is not replaced") as caught:
        write(path, TOKENS, MODEL, "model")
    assert (path.read_bytes(), caught.value.hint) == (content, "name another file")
    with pytest.raises(UnusableError, match="is not a prompt cache"):
        read(path, MODEL, "model")


@pytest.mark.skipif(os.name == "nt", reason="needs links and pipes of POSIX")
@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "link to a text"])
def test_what_is_no_file_is_not_replaced(path: Path, tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        (tmp_path / "text").write_text("precious")
        path.symlink_to("/dev/null" if kind == "device" else tmp_path / "text")
    with pytest.raises(GgufHubError, match="is not a prompt cache"):
        write(path, TOKENS, MODEL, "model")
    assert os.path.lexists(path)
    assert kind != "link to a text" or (tmp_path / "text").read_text() == "precious"


def test_an_empty_file_may_become_one(path: Path) -> None:
    path.touch()
    write(path, TOKENS, MODEL, "model")
    assert read(path, MODEL, "model").tokens == TOKENS


@pytest.mark.skipif(os.name == "nt", reason="needs links of POSIX")
def test_links_stay_links(saved: Path, tmp_path: Path) -> None:
    link, other = tmp_path / "link", tmp_path / "other name"
    link.symlink_to(saved)
    other.hardlink_to(saved)
    before = saved.read_bytes()
    write(link, [7], MODEL, "model")
    assert link.is_symlink()
    assert read(link, MODEL, "model").tokens == read(saved, MODEL, "model").tokens == [7]
    assert other.read_bytes() == before


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(GgufHubError, match="no folder"):
        write(tmp_path / "none" / "p.cache", TOKENS, MODEL, "model")


# -- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["text", "model", "link", "hard link", "folder"])
def test_run_refuses_before_a_model_is_loaded(
    gguf_hub: Generation, tmp_path: Path, embedded: Path, which: str
) -> None:
    model, file = tmp_path / "m.gguf", tmp_path / "notes"
    model.write_bytes(embedded.read_bytes())
    if which == "text":
        file.write_text("my only copy")
    elif which == "folder":
        file.mkdir()
    elif which == "link":
        file.symlink_to(model)
    elif which == "hard link":
        file.hardlink_to(model)
    else:
        file = model
    code, out, err = gguf_hub("run", model, "-p", "hi", "-n", 1, "--prompt-cache", file)
    assert (code, out) == (1, "")
    assert f"`{file}` exists and is not a prompt cache" in err
    assert model.read_bytes() == embedded.read_bytes()
    assert which != "text" or file.read_text() == "my only copy"


@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_a_zip_that_unpacks_to_gigabytes_takes_no_memory(path: Path) -> None:
    import resource

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        head = io.BytesIO()
        shape = {"descr": "<u2", "fortran_order": False, "shape": (3 * 10**8,)}
        np.lib.format.write_array_header_1_0(head, shape)
        with file.open("cache.npy", "w") as out:
            out.write(head.getvalue())
            for _ in range(60):
                out.write(bytes(10**6))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnusableError):
        read(path, MODEL, "model")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000
