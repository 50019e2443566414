"""Whole files: what is carried over, what is refused, and that nothing half-made is left."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gguf_hub.errors import DiskFullError, GgufError, UnsupportedGgufError
from gguf_hub.gguf import atomic
from gguf_hub.gguf.format import Field, TensorSpec
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.shards import open_gguf, plan_split, write_shards
from gguf_hub.gguf.types import FileType
from gguf_hub.gguf.types import QuantType as T
from gguf_hub.gguf.validate import validate_file
from gguf_hub.gguf.writer import write_gguf
from gguf_hub.run.quants.imatrix import Entry, ImportanceMatrix
from gguf_hub.run.quants.plan import plan_quantize
from gguf_hub.run.quants.quantize import quantize_file, write_quantized
from gguf_hub.run.quants.recipes import Wishes
from tests import naive
from tests.synth import SMALL, Shape, metadata, write_mixtral

ODD = Shape(
    n_layer=1, n_embd=160, n_head=5, n_head_kv=5, n_ff=96, n_expert=0, n_vocab=300, n_ctx=64
)
DENSE = Shape(
    n_layer=1, n_embd=256, n_head=4, n_head_kv=4, n_ff=256, n_expert=0, n_vocab=300, n_ctx=64
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_mixtral(tmp_path / "in.gguf", SMALL, layout="merged", recipe="F16")


def values(file: GgufFile, name: str) -> np.ndarray:
    return naive.dequantize(file.tensors[name].type, file.tensor_bytes(name))


def test_metadata_is_carried_over_and_says_the_new_type(source: Path, tmp_path: Path) -> None:
    quantize_file(source, tmp_path / "out.gguf", FileType.Q4_K_M, n_threads=2)
    before, after = GgufFile.open(source), GgufFile.open(tmp_path / "out.gguf")
    changed = {key for key in after.fields if after.fields[key] != before.fields.get(key)}
    assert changed == {"general.file_type"}
    assert list(after.fields) == list(before.fields)
    assert after.metadata["general.file_type"] == FileType.Q4_K_M
    assert after.metadata["general.quantization_version"] == 2
    assert list(after.tensors) == list(before.tensors)


def test_weights_stay_close_and_small_tensors_stay_equal(source: Path, tmp_path: Path) -> None:
    plan = quantize_file(source, tmp_path / "out.gguf", FileType.Q4_K_M, n_threads=2)
    before, after = GgufFile.open(source), GgufFile.open(tmp_path / "out.gguf")
    assert after.size_bytes == plan.size_bytes
    for name, info in after.tensors.items():
        x, y = values(before, name), values(after, name)
        if info.type in (T.F32, T.F16):
            assert np.array_equal(x, y), name
        else:
            assert np.sqrt(np.mean((x - y) ** 2)) < 0.1 * np.sqrt(np.mean(x**2)), name


def test_what_is_written_is_sound_and_what_gguf_reads(source: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    target = tmp_path / "out.gguf"
    quantize_file(source, target, FileType.Q4_K_M, n_threads=2)
    assert validate_file(target).issues == ()
    ours, theirs = GgufFile.open(target), gguf.GGUFReader(target)
    assert [t.name for t in theirs.tensors] == list(ours.tensors)
    for tensor in theirs.tensors:
        assert tensor.tensor_type.name == ours.tensors[tensor.name].type.name
        raw = np.ascontiguousarray(tensor.data).view(np.uint8).reshape(-1)
        assert np.array_equal(raw, ours.tensor_bytes(tensor.name))
    for key, value in ours.metadata.items():
        found = theirs.fields[key].contents()
        assert np.array_equal(found, value) if isinstance(value, np.ndarray) else found == value


@pytest.mark.parametrize(("first", "then"), [("merged", "split"), ("split", "merged")])
def test_experts_change_their_layout_and_not_their_weights(
    first: str, then: str, tmp_path: Path
) -> None:
    source = write_mixtral(tmp_path / "in.gguf", SMALL, layout=first, recipe="F16")
    quantize_file(source, tmp_path / "kept.gguf", FileType.Q8_0, n_threads=2)
    quantize_file(source, tmp_path / "other.gguf", FileType.Q8_0, layout=then, n_threads=2)
    kept, other = (GgufFile.open(tmp_path / f"{name}.gguf") for name in ("kept", "other"))
    split, merged = (kept, other) if first == "split" else (other, kept)
    parts = [split.tensor_bytes(f"blk.1.ffn_down.{e}.weight") for e in range(8)]
    assert np.array_equal(np.concatenate(parts), merged.tensor_bytes("blk.1.ffn_down_exps.weight"))


def test_the_layout_is_kept_unless_told(tmp_path: Path) -> None:
    source = write_mixtral(tmp_path / "in.gguf", SMALL, layout="split", recipe="F16")
    plan = plan_quantize(source, FileType.Q8_0)
    assert "blk.0.ffn_up.7.weight" in {part.spec.name for part in plan.parts}
    assert any("--layout merged" in note for note in plan.notes)


def test_rows_that_fill_no_block_fall_back_and_are_told(tmp_path: Path) -> None:
    source = write_mixtral(tmp_path / "in.gguf", ODD, recipe="F16")
    plan = quantize_file(source, tmp_path / "out.gguf", FileType.Q4_K_M, n_threads=1)
    kinds = {part.spec.name: part.spec.type for part in plan.parts}
    assert kinds["blk.0.attn_q.weight"] is T.Q5_0
    assert kinds["output.weight"] is T.Q8_0
    assert any("do not fill" in note and "Q5_0, not Q4_K" in note for note in plan.notes)


# -- refusals -----------------------------------------------------------------------------------


def quantized(source: Path, file_type: FileType) -> Path:
    target = source.with_name(f"{file_type.name}.gguf")
    quantize_file(source, target, file_type, n_threads=2)
    return target


def test_fewer_bits_are_not_made_more(source: Path, tmp_path: Path) -> None:
    low = quantized(source, FileType.Q4_0)
    with pytest.raises(GgufError, match=r"`token_embd.weight` \(and \d+ more\) is Q4_0") as error:
        plan_quantize(low, FileType.Q8_0)
    assert "--requantize" in (error.value.hint or "")
    plan = plan_quantize(low, FileType.Q8_0, requantize=True)
    assert any("quantised before (Q4_0, Q6_K)" in note for note in plan.notes)


def test_more_bits_may_become_fewer_and_equal_types_are_copied(source: Path) -> None:
    plan = plan_quantize(quantized(source, FileType.Q8_0), FileType.Q4_K_M)
    kinds = {part.spec.name: (part.source_type, part.spec.type) for part in plan.parts}
    assert kinds["token_embd.weight"] == (T.Q8_0, T.Q4_K)
    assert kinds["blk.0.attn_k.weight"] == (T.Q8_0, T.Q8_0)


def small_file(path: Path, fields: dict[str, Field], array: np.ndarray, name: str) -> Path:
    kind = T.F32 if array.dtype == np.float32 else T.F16
    write_gguf(path, fields, [(TensorSpec(name, array.shape[::-1], kind), array)])
    return path


@pytest.mark.parametrize("name", ["blk.0.attn_q.weight", "blk.0.attn_norm.weight"])
@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=str)
def test_weights_that_are_no_numbers_are_named_and_nothing_is_left(
    name: str, bad: float, tmp_path: Path
) -> None:
    shape = (3, 256) if "attn_q" in name else (256,)
    array = np.ones(shape, np.float32)
    array.reshape(-1)[-1] = bad
    source = small_file(tmp_path / "in.gguf", metadata(DENSE), array, name)
    with pytest.raises(GgufError, match=rf"`{name}`: weight {array.size - 1} .* is {bad}"):
        quantize_file(source, tmp_path / "out.gguf", FileType.Q8_0, n_threads=2)
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def test_no_space_is_found_out_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = atomic.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DiskFullError, match="not enough space"):
        quantize_file(source, tmp_path / "out.gguf", FileType.Q8_0, n_threads=1)
    assert [path.name for path in tmp_path.iterdir()] == ["in.gguf"]


def test_unknown_architectures_have_no_mix_but_may_be_pure(tmp_path: Path) -> None:
    fields = metadata(DENSE) | {"general.architecture": Field.of("rwkv7")}
    array = np.ones((2, 256), np.float32)
    source = small_file(tmp_path / "in.gguf", fields, array, "blk.0.ssm_in.weight")
    with pytest.raises(UnsupportedGgufError, match="architecture `rwkv7`") as error:
        plan_quantize(source, FileType.Q4_K_M)
    assert "--pure" in (error.value.hint or "")
    assert (
        plan_quantize(source, FileType.Q4_K_M, wishes=Wishes(is_pure=True)).parts[0].spec.type
        is T.Q4_K
    )


def test_shards_are_quantized_as_the_whole_file_is(source: Path, tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "part", plan_split(source, max_tensors=7))
    quantize_file(source, tmp_path / "a.gguf", FileType.Q4_K_M)
    plan = quantize_file(paths[1], tmp_path / "b.gguf", FileType.Q4_K_M)
    assert (tmp_path / "b.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()
    assert plan.source_bytes == sum(path.stat().st_size for path in paths)


def test_big_endian_files_are_upgraded_first(tmp_path: Path) -> None:
    source = write_mixtral(tmp_path / "in.gguf", DENSE, recipe="F16", byte_order="big")
    with pytest.raises(UnsupportedGgufError, match="big-endian") as error:
        plan_quantize(source, FileType.Q8_0)
    assert "gguf-hub upgrade" in (error.value.hint or "")


def test_types_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    spec = TensorSpec("blk.0.attn_q.weight", (256, 2), T.I8)
    write_gguf(tmp_path / "in.gguf", metadata(DENSE), [(spec, bytes(2 * 256))])
    with pytest.raises(UnsupportedGgufError, match=r"`blk\.0\.attn_q\.weight` is I8"):
        plan_quantize(tmp_path / "in.gguf", FileType.Q2_K)


# -- importance matrices ---------------------------------------------------------------------------


def importance(source: Path, seed: int = 0) -> ImportanceMatrix:
    """A matrix in which few inputs of each tensor count for much."""
    rng, entries = np.random.default_rng(seed), {}
    for name, info in GgufFile.open(source).tensors.items():
        if name.startswith("blk.") and len(info.shape) > 1:
            n = info.shape[2] if len(info.shape) > 2 else 1
            sums = np.exp(3 * rng.standard_normal((n, info.shape[0]))).astype(np.float32)
            entries[name] = Entry(sums, np.full(n, 7))
    return ImportanceMatrix(entries, ("a.txt", "b.txt"), 3, 512, Path("m.imatrix.gguf"))


def weighted_errors(source: Path, target: Path, imatrix: ImportanceMatrix) -> dict[str, float]:
    """Relative errors by what they count for, of each tensor and expert."""
    before, after, found = GgufFile.open(source), GgufFile.open(target), {}
    for name, info in after.tensors.items():
        if name not in imatrix.entries or info.type in (T.F32, T.F16):
            continue
        weights = imatrix.entries[name].means.astype(np.float64)
        shape = (len(weights), -1, info.shape[0])
        x, y = (values(file, name).astype(np.float64).reshape(shape) for file in (before, after))
        weighted = weights[:, None, :]
        for e in range(len(weights)):
            error = (weighted[e] * (x[e] - y[e]) ** 2).sum() / (weighted[e] * x[e] ** 2).sum()
            found[f"{name}/{e}"] = float(np.sqrt(error))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("file_type", [FileType.Q4_K_M, FileType.Q2_K_S, FileType.Q4_0])
def test_errors_that_count_become_smaller(
    file_type: FileType, source: Path, tmp_path: Path
) -> None:
    imatrix = importance(source)
    plan = quantize_file(source, tmp_path / "a.gguf", file_type, imatrix=imatrix, n_threads=2)
    other = FileType.Q2_K if file_type is FileType.Q2_K_S else file_type
    types = tuple(
        (re.compile(f"^{re.escape(part.spec.name)}$"), part.spec.type) for part in plan.parts
    )
    quantize_file(source, tmp_path / "b.gguf", other, wishes=Wishes(tensors=types), n_threads=2)
    ours = weighted_errors(source, tmp_path / "a.gguf", imatrix)
    plain = weighted_errors(source, tmp_path / "b.gguf", imatrix)
    weighted = {p.spec.name for p in plan.parts if p.importance is not None}
    assert {name.partition("/")[0] for name in ours} >= weighted
    for name, error in ours.items():
        if name.partition("/")[0] in weighted:
            assert error < 0.9 * plain[name], name


@pytest.mark.slow
def test_keys_say_which_importance_matrix_it_was(source: Path, tmp_path: Path) -> None:
    imatrix = importance(source)
    quantize_file(source, tmp_path / "a.gguf", FileType.Q4_K_M, imatrix=imatrix, n_threads=1)
    metadata = GgufFile.open(tmp_path / "a.gguf").metadata
    keys = {key: metadata[key] for key in metadata if key.startswith("quantize.")}
    assert keys == {
        "quantize.imatrix.file": "m.imatrix.gguf",
        "quantize.imatrix.dataset": "a.txt",
        "quantize.imatrix.entries_count": len(imatrix.entries),
        "quantize.imatrix.chunks_count": 3,
    }


def test_each_expert_has_its_own_importance_in_either_layout(source: Path, tmp_path: Path) -> None:
    imatrix = importance(source)
    for layout in ("merged", "split"):
        quantize_file(source, tmp_path / f"{layout}.gguf", FileType.Q4_K_M, layout=layout,
                      imatrix=imatrix, n_threads=2)  # fmt: skip
    merged, split = (GgufFile.open(tmp_path / f"{name}.gguf") for name in ("merged", "split"))
    parts = [split.tensor_bytes(f"blk.1.ffn_down.{e}.weight") for e in range(8)]
    assert np.array_equal(np.concatenate(parts), merged.tensor_bytes("blk.1.ffn_down_exps.weight"))
    changed = ImportanceMatrix(dict(imatrix.entries))
    name = "blk.1.ffn_down_exps.weight"
    sums = imatrix.entries[name].sums.copy()
    sums[3] = sums[3][::-1]
    changed.entries[name] = Entry(sums, imatrix.entries[name].counts)
    quantize_file(source, tmp_path / "c.gguf", FileType.Q4_K_M, imatrix=changed, n_threads=2)
    other = GgufFile.open(tmp_path / "c.gguf").tensor_bytes(name).reshape(8, -1)
    same = (other == merged.tensor_bytes(name).reshape(8, -1)).all(axis=1)
    assert same.tolist() == [e != 3 for e in range(8)]


def test_what_needs_an_importance_matrix_is_refused_without(source: Path, tmp_path: Path) -> None:
    plan = plan_quantize(source, FileType.Q2_K_S)
    assert plan.size_bytes > 0
    with pytest.raises(GgufError, match=r"`blk\.0\.\w+\.weight` \(and \d+ more\) would be Q2_K"):
        write_quantized(plan, tmp_path / "out.gguf")
    imatrix = importance(source)
    del imatrix.entries["blk.1.attn_q.weight"]
    with pytest.raises(GgufError, match=r"`blk\.1\.attn_q\.weight` would be Q2_K"):
        quantize_file(source, tmp_path / "out.gguf", FileType.Q2_K_S, imatrix=imatrix)
    assert [path.name for path in tmp_path.iterdir()] == ["in.gguf"]
    plan = plan_quantize(source, FileType.Q4_K_M, imatrix=imatrix)
    assert any("1 tensors have no entry" in note and "blk.1.attn_q" in note for note in plan.notes)


def test_the_importance_matrix_of_another_model_is_refused(source: Path, tmp_path: Path) -> None:
    wider = replace(SMALL, n_embd=512, n_head=8, n_head_kv=2)
    other = importance(write_mixtral(tmp_path / "o.gguf", wider, layout="merged", recipe="F16"))
    with pytest.raises(GgufError, match=r"the entry of tensor `blk\.0\.\w+\.weight` has 512"):
        plan_quantize(source, FileType.Q4_K_M, imatrix=other)
    strange = ImportanceMatrix({f"x.{name}": entry for name, entry in other.entries.items()})
    for file_type in (FileType.Q4_K_M, FileType.Q8_0):  # which uses no matrix
        with pytest.raises(GgufError, match="has no entry of any tensor"):
            plan_quantize(source, file_type, imatrix=strange)
    foreign = ImportanceMatrix({**importance(source).entries, **strange.entries})
    (note,) = plan_quantize(source, FileType.Q4_K_M, imatrix=foreign).notes
    assert f"{len(strange.entries)} entries are of tensors that the model lacks: `x.blk" in note


def test_shards_can_be_kept(source: Path, tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "part", plan_split(source, max_tensors=7))
    quantize_file(source, tmp_path / "whole.gguf", FileType.Q4_K_M)
    plan = plan_quantize(paths[0], FileType.Q4_K_M, keeps_split=True)
    written = write_quantized(plan, tmp_path / "out.gguf", n_threads=2)
    assert [path.name for path in written] == [path.name.replace("part", "out") for path in paths]
    assert plan.size_bytes == sum(path.stat().st_size for path in written)
    whole = GgufFile.open(tmp_path / "whole.gguf")
    with open_gguf(written[1]) as kept:
        assert list(kept.tensors) == list(whole.tensors)
        assert {k: v for k, v in kept.fields.items() if "split." not in k} == dict(whole.fields)
        for name in whole.tensors:
            assert np.array_equal(kept.tensor_bytes(name), whole.tensor_bytes(name))
    assert len(plan_quantize(source, FileType.Q4_K_M, keeps_split=True).files) == 1
