"""SHA-256 of each tensor: computed once, written, served, and refused where they are none."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.errors import GgufError
from gguf_hub.gguf.format import TensorSpec
from gguf_hub.gguf.manifest import BLOCK_BYTES, HEADER, HashedTensor, Manifest, manifest_of
from gguf_hub.gguf.shards import open_gguf
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.writer import write_gguf
from gguf_hub.hub.download.manifests import ManifestStore
from gguf_hub.hub.download.segments import CutSegments
from gguf_hub.hub.mirror import Mirror, RepositoryIndex
from gguf_hub.hub.store import Store, StoredFile
from gguf_hub.paths import data_dir
from gguf_hub.progress import SILENT, SilentProgress, Task

GgufHub = Callable[..., tuple[int, str, str]]


class Totals(SilentProgress):
    """Keeps how many bytes tasks had to do."""

    def __init__(self) -> None:
        self.totals: list[int | None] = []

    def task(self, label: str, total: int | None, *, unit: str = "B", done: int = 0) -> Task:
        self.totals.append(total)
        return SILENT.task(label, total)


@pytest.fixture
def model(tmp_path: Path, embedded: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(embedded.read_bytes())
    return path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_hashes_are_those_of_the_bytes(model: Path) -> None:
    data = model.read_bytes()
    with open_gguf(model) as file:
        (found,) = manifest_of(file).files
        assert [each.name for each in found.tensors] == [HEADER, *file.tensors]
        for name in file.tensors:
            start = file.start_of(name)
            expected = sha256(data[start : start + file.tensors[name].size_bytes])
            assert [each.hashes for each in found.tensors if each.name == name] == [(expected,)]
        assert found.tensors[0].hashes == (sha256(data[: file.data_offset]),)


def test_a_large_tensor_has_a_hash_for_each_block(tmp_path: Path) -> None:
    values = np.random.default_rng(1).random((BLOCK_BYTES // 4 + 1000,), np.float32)
    path = tmp_path / "large.gguf"
    write_gguf(path, {}, [(TensorSpec("a", values.shape, QuantType.F32), values)])
    with open_gguf(path) as file:
        tensor = manifest_of(file).files[0].tensors[-1]
    raw = values.tobytes()
    assert tensor.hashes == (sha256(raw[:BLOCK_BYTES]), sha256(raw[BLOCK_BYTES:]))


def test_a_file_is_hashed_once_and_again_when_it_has_changed(model: Path, tmp_path: Path) -> None:
    store, progress = ManifestStore(tmp_path / "data"), Totals()
    with open_gguf(model) as file:
        some = list(file.tensors)[:3]
        part = store.manifest(file, some, progress=progress)
        assert {each.name for each in part.files[0].hashed} == {HEADER, *some}
        assert store.find(model) is None
        whole = store.manifest(file, progress=progress)
        assert store.manifest(file, progress=progress) == whole == manifest_of(file)
        sizes = [part.hashed_bytes, whole.hashed_bytes - part.hashed_bytes, 0]
        assert [total for total in progress.totals if total] == [size for size in sizes if size]
    assert store.find(model) == whole
    os.utime(model, ns=(1, 1))
    assert store.find(model) is None


def test_a_manifest_survives_json(model: Path) -> None:
    with open_gguf(model) as file:
        manifest = manifest_of(file)
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


def changed(**values: Any) -> dict[str, Any]:
    tensor = {"name": "", "start": 0, "size_bytes": 10, "sha256": ["0" * 64]} | values
    return {"manifest": 1, "files": [{"name": "m", "size_bytes": 20, "tensors": [tensor]}]}


@pytest.mark.parametrize(
    "data",
    [
        None, [], {}, {"manifest": 2, "files": []}, {"manifest": 1, "files": [{}]},
        changed(start=1), changed(start=-1), changed(size_bytes=21), changed(size_bytes="9"),
        changed(sha256=["x" * 64]), changed(sha256=["0" * 63]), changed(sha256=["0" * 64] * 2),
        changed(sha256=7), changed(name=None), changed(size_bytes=-5),
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(data: Any) -> None:
    with pytest.raises(GgufError, match="no manifest of tensors"):
        Manifest.from_json(data)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_cuts_cover_a_file_once(sizes: list[int]) -> None:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    segments = CutSegments.of_starts(sum(sizes), dict.fromkeys(starts))
    assert [segments.length(i) for i in range(len(segments))] == sizes
    assert [segments.index_at(at) for at in range(sum(sizes))] == [
        i for i, size in enumerate(sizes) for _ in range(size)
    ]


def test_blocks_cover_a_tensor_once() -> None:
    tensor = HashedTensor("a", 96, 2 * BLOCK_BYTES + 5)
    assert list(tensor.blocks()) == [
        (96, 96 + BLOCK_BYTES),
        (96 + BLOCK_BYTES, 96 + 2 * BLOCK_BYTES),
        (96 + 2 * BLOCK_BYTES, 96 + 2 * BLOCK_BYTES + 5),
    ]


def test_verify_writes_what_mirror_serves(model: Path, tmp_path: Path, gguf_hub: GgufHub) -> None:
    target = tmp_path / "manifest.json"
    entry = StoredFile.of(model, sha256(model.read_bytes()))
    with Mirror(
        RepositoryIndex(None, [entry]), manifest_of=ManifestStore(data_dir()).json_of
    ).start() as mirror:
        url = f"{mirror.endpoint}/api/models/local/models/manifest/main/{model.name}"
        assert httpx.get(url).status_code == 404
        code, _, err = gguf_hub("verify", model, "--manifest", target)
        assert code == 0, err
        served = httpx.get(url)
        assert served.status_code == 200
    with open_gguf(model) as file:
        assert Manifest.from_json(served.json()) == manifest_of(file)
    assert json.loads(target.read_text()) == served.json()
    before = target.read_bytes()
    code, _, err = gguf_hub("verify", model, "--manifest", target)
    assert (code, target.read_bytes()) == (2, before)
    assert "exists already" in err


def test_a_damaged_file_gets_no_manifest(model: Path, tmp_path: Path, gguf_hub: GgufHub) -> None:
    with model.open("r+b") as file:
        file.truncate(model.stat().st_size - 100)
    code, _, _ = gguf_hub("verify", model, "--manifest", tmp_path / "manifest.json")
    assert code == 1
    assert not (tmp_path / "manifest.json").exists()


def test_upgrade_writes_the_hashes_of_the_new_file(tmp_path: Path, gguf_hub: GgufHub) -> None:
    from tests.synth import Shape, write_mixtral

    shape = Shape(n_layer=1, n_embd=256, n_head=4, n_head_kv=2, n_ff=256, n_expert=2, n_vocab=300)
    old = write_mixtral(tmp_path / "old.gguf", shape, recipe="Q4_K_M")
    new, target = tmp_path / "new.gguf", tmp_path / "manifest.json"
    code, _, err = gguf_hub("upgrade", old, new, "--manifest", target)
    assert code == 0, err
    with open_gguf(new) as file:
        assert Manifest.from_json(json.loads(target.read_text())) == manifest_of(file)
    code, _, err = gguf_hub("upgrade", new, "--check", "--manifest", tmp_path / "other.json")
    assert code == 2
    assert not Store().entries()
