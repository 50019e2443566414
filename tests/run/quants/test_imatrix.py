"""Importance matrices: files of both formats, merging, and the entry of a tensor."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gguf_hub.errors import GgufError
from gguf_hub.gguf.format import Field, TensorSpec
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.validate import validate_file
from gguf_hub.gguf.writer import write_gguf
from gguf_hub.run.quants.imatrix import Entry, ImportanceMatrix, merge
from gguf_hub.run.quants.imatrix_file import read_imatrix, write_imatrix


def entry(sums: object, *counts: int) -> Entry:
    return Entry(np.array(sums, np.float32).reshape(len(counts), -1), np.array(counts, np.int64))


MATRIX = ImportanceMatrix(
    {
        "blk.0.attn_q.weight": entry([8, 4, 2, 1], 4),
        "blk.0.ffn_up_exps.weight": entry([[1, 2], [0, 0], [9, 6]], 1, 0, 3),
    },
    ("a.txt", "ü.txt"),
    2,
    2,
)


def test_a_file_holds_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_imatrix(path, MATRIX)
    found = read_imatrix(path)
    assert (found.datasets, found.n_chunks, found.chunk_size) == (("a.txt", "ü.txt"), 2, 2)
    assert found.entries.keys() == MATRIX.entries.keys()
    for name, each in MATRIX.entries.items():
        assert np.array_equal(found.entries[name].sums, each.sums)
        assert np.array_equal(found.entries[name].counts, each.counts)
    assert validate_file(path).issues == ()


def test_the_gguf_package_reads_llama_imatrix_form(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    write_imatrix(tmp_path / "m.gguf", MATRIX)
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    assert reader.fields["general.type"].contents() == "imatrix"
    shapes = {tensor.name: tensor.shape.tolist() for tensor in reader.tensors}
    assert shapes["blk.0.ffn_up_exps.weight.in_sum2"] == [2, 3]
    assert shapes["blk.0.ffn_up_exps.weight.counts"] == [1, 3]


def legacy(entries: dict[str, tuple[int, list[float]]], end: bytes = b"") -> bytes:
    data = struct.pack("<i", len(entries))
    for name, (n_chunks, values) in entries.items():
        data += (
            struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", n_chunks, len(values))
        )
        data += np.array(values, "<f4").tobytes()
    return data + end


def test_the_format_before_gguf_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.dat"
    path.write_bytes(
        legacy({"blk.0.attn_q.weight": (5, [10, 20])}, struct.pack("<ii", 5, 5) + b"x.txt")
    )
    found = read_imatrix(path)
    assert (found.datasets, found.n_chunks) == (("x.txt",), 5)
    assert found.weights_of("blk.0.attn_q.weight", (2, 7)).tolist() == [[2, 4]]
    merged = merge([found], 512)
    assert merged.entries["blk.0.attn_q.weight"].counts.tolist() == [5 * 512]
    assert merged.weights_of("blk.0.attn_q.weight", (2, 7)).tolist() == [[2, 4]]
    path.write_bytes(legacy({"x": (1, [1.0])}))
    assert read_imatrix(path).datasets == ()


def test_merging_adds_sums_and_counts() -> None:
    both = merge([MATRIX, MATRIX], 2)
    assert both.entries["blk.0.attn_q.weight"].sums.tolist() == [[16, 8, 4, 2]]
    assert both.entries["blk.0.ffn_up_exps.weight"].counts.tolist() == [2, 0, 6]
    assert both.n_chunks == 4
    assert both.datasets == MATRIX.datasets * 2


def test_matrices_of_other_models_are_not_merged() -> None:
    other = ImportanceMatrix({"blk.0.attn_q.weight": entry([1, 2], 1)}, chunk_size=2)
    with pytest.raises(GgufError, match=r"`blk.0.attn_q.weight` has 2 numbers .* expected 4"):
        merge([MATRIX, other], 2)


def test_a_tensors_weights_are_means_and_ones_where_nothing_entered() -> None:
    assert MATRIX.weights_of("blk.0.attn_q.weight", (4, 9)).tolist() == [[2, 1, 0.5, 0.25]]
    found = MATRIX.weights_of("blk.0.ffn_up_exps.weight", (2, 9, 3))
    assert found.tolist() == [[1, 2], [1, 1], [3, 2]]
    assert MATRIX.weights_of("output.weight", (4, 9)) is None


def test_experts_are_found_in_either_layout() -> None:
    assert MATRIX.weights_of("blk.0.ffn_up.2.weight", (2, 9)).tolist() == [[3, 2]]
    assert MATRIX.weights_of("blk.0.ffn_up.3.weight", (2, 9)) is None
    assert MATRIX.weights_of("blk.0.ffn_gate_exps.weight", (2, 9, 3)) is None
    split = ImportanceMatrix({f"blk.1.ffn_down.{e}.weight": entry([e, e], 1) for e in range(3)})
    merged = split.weights_of("blk.1.ffn_down_exps.weight", (2, 9, 3))
    assert merged.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert split.weights_of("blk.1.ffn_down_exps.weight", (2, 9, 4)) is None
    fused = ImportanceMatrix({"blk.1.ffn_gate_up_exps.weight": entry([[1, 2], [3, 4]], 1, 1)})
    assert fused.weights_of("blk.1.ffn_up_exps.weight", (2, 9, 2)).tolist() == [[1, 2], [3, 4]]
    assert fused.weights_of("blk.1.ffn_up.1.weight", (2, 9)).tolist() == [[3, 4]]


def test_entries_of_a_model_are_those_that_its_tensors_use() -> None:
    one, three = entry([1, 2], 1), entry([[1, 2], [3, 4], [5, 6]], 1, 1, 1)
    split = {f"blk.0.ffn_up.{e}.weight": one for e in range(3)}
    kinds = {"blk.0.ffn_up_exps.weight": three, "blk.0.ffn_gate_up_exps.weight": three, **split}
    layouts = (
        {"blk.0.ffn_up_exps.weight": (2, 9, 3)},
        {f"blk.0.ffn_up.{e}.weight": (2, 9) for e in range(3)},
    )
    for shapes in layouts:
        for entries in ({name: kinds[name]} for name in list(kinds)[:2]):
            own, foreign = ImportanceMatrix(entries).of_model(shapes)
            assert (own.entries, foreign) == (entries, ())
            assert all(own.weights_of(*each) is not None for each in shapes.items())
        assert ImportanceMatrix(split).of_model(shapes)[1] == ()
        larger = split | {"blk.0.ffn_up.3.weight": one, "blk.1.ffn_up_exps.weight": three}
        own, foreign = ImportanceMatrix(larger).of_model(shapes)
        assert own.entries == split
        assert foreign == ("blk.0.ffn_up.3.weight", "blk.1.ffn_up_exps.weight")
    with pytest.raises(GgufError, match=r"no entry of any tensor of the model.*`blk\.0\.attn_q"):
        MATRIX.of_model({"blk.9.attn_q.weight": (4, 9)})


@pytest.mark.parametrize("shape", [(3, 9), (4, 9, 2), (2, 9)])
def test_another_models_matrix_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(GgufError, match=r"`blk.0.attn_q.weight` has 4 numbers") as error:
        MATRIX.weights_of("blk.0.attn_q.weight", shape)
    assert "another model" in (error.value.hint or "")


def gguf_file(path: Path, tensors: dict[str, np.ndarray], kind: str = "imatrix") -> None:
    pairs = [
        (TensorSpec(name, array.shape[::-1], QuantType.F32), array)
        for name, array in tensors.items()
    ]
    write_gguf(path, {"general.type": Field.of(kind)}, pairs)


def floats(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda path: None, "cannot read"),
    "empty": (lambda path: path.write_bytes(b""), "at byte 0 of 0"),
    "text": (lambda path: path.write_bytes(b"This is no importance matrix at all."), "at byte"),
    "cut": (
        lambda path: path.write_bytes(legacy({"blk.0.attn_q.weight": (5, [10, 20])})[:-1]),
        "expected an importance matrix",
    ),
    "no entries": (lambda path: path.write_bytes(bytes(8)), "0 entries"),
    "NaN": (
        lambda path: path.write_bytes(legacy({"a.weight": (5, [1, np.nan])})),
        "`a.weight` has a sum of squares of nan",
    ),
    "a model": (lambda path: gguf_file(path, {"x": floats(1)}, "model"), "is a model"),
    "no counts": (
        lambda path: gguf_file(path, {"a.weight.in_sum2": floats(1)}), "sums and no counts",
    ),
    "no sums": (
        lambda path: gguf_file(path, {"a.weight.counts": floats(1)}), "is not one of an entry",
    ),
    "below zero": (
        lambda path: gguf_file(
            path, {"a.weight.in_sum2": floats(1, -1), "a.weight.counts": floats(1)}
        ),
        "sum of squares of -1",
    ),
    "counts that do not divide": (
        lambda path: gguf_file(
            path, {"a.weight.in_sum2": floats(1, 1, 1), "a.weight.counts": floats(1, 1)}
        ),
        "3 sums and 2 counts",
    ),
    "infinite counts": (
        lambda path: gguf_file(
            path, {"a.weight.in_sum2": floats(1), "a.weight.counts": floats(np.inf)}
        ),
        "not a number of rows",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_importance_matrix_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    make, problem = BAD[kind]
    path = tmp_path / "m.dat"
    make(path)
    with pytest.raises(GgufError, match=problem) as error:
        read_imatrix(path)
    assert str(path) in error.value.message
