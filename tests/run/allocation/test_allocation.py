"""What is measured and chosen, on a small synthetic model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gguf_hub.errors import GgufHubError
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import FileType
from gguf_hub.gguf.types import QuantType as T
from gguf_hub.run.allocation import Allocator, Text, open_allocator
from gguf_hub.run.allocation.errors import measure_errors
from gguf_hub.run.allocation.kept import Kept
from gguf_hub.run.allocation.sensitivity import (
    PROBES,
    Prober,
    group_key,
    group_units,
    measure_groups,
    probe_type,
    sensitivities,
)
from gguf_hub.run.allocation.units import TYPES, Unit, find_units
from gguf_hub.run.perplexity import cut
from gguf_hub.run.quants.imatrix import Entry, ImportanceMatrix
from gguf_hub.run.quants.plan import Conversion, plan_quantize
from gguf_hub.run.quants.quantize import write_quantized
from gguf_hub.run.quants.recipes import NEEDING_IMATRIX, NO_WISHES, Wishes, parse_tensor_type
from gguf_hub.run.quants.tensor_types import parse_tensor_types
from tests import naive
from tests.synth import Shape, write_mixtral

SHAPE = Shape(
    n_layer=1, n_embd=256, n_head=4, n_head_kv=4, n_ff=256, n_expert=2, n_vocab=300, n_ctx=64
)
FEW = Wishes(tensors=tuple(parse_tensor_types(["attn_[qko]=q8_0", "gate|up|output=q8_0"], "")))
"""Leaves three units a choice: values, down projections and embeddings."""
CHUNKS = cut([3 + (7 * i + i // 5) % 290 for i in range(96)], 32)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_mixtral(tmp_path / "in.gguf", SHAPE, layout="split", recipe="F16")


def parts_of(source: Path) -> tuple[Conversion, ...]:
    return plan_quantize(source, FileType.F16, requantize=True).parts


def units_of(source: Path, wishes: Wishes = NO_WISHES) -> dict[str, Unit]:
    return {unit.name: unit for unit in find_units(parts_of(source), wishes, None)}


def matrix_of(source: Path) -> ImportanceMatrix:
    """A matrix of every tensor in layers: expert 1 is used three times as often as expert 0."""
    rng, entries = np.random.default_rng(0), {}
    for name, unit in units_of(source).items():
        if name.startswith("blk."):
            counts = np.array([1, 3] if "exps" in name else [4])
            sums = rng.uniform(0.1, 2, (len(counts), unit.row_length)) * counts[:, None]
            entries[name] = Entry(sums.astype(np.float32), counts)
    return ImportanceMatrix(entries)


# ---- units -------------------------------------------------------------------------------------


def test_experts_of_a_layer_are_one_unit_in_either_layout(source: Path) -> None:
    units = units_of(source)
    assert [part.spec.name for part in units["blk.0.ffn_up_exps.weight"].parts] == [
        "blk.0.ffn_up.0.weight",
        "blk.0.ffn_up.1.weight",
    ]
    merged = find_units(plan_quantize(source, FileType.F16, layout="merged").parts, NO_WISHES, None)
    assert [unit.name for unit in merged] == list(units)
    assert "blk.0.ffn_gate_inp.weight" not in units
    assert "blk.0.attn_norm.weight" not in units


def test_types_are_those_that_fit_and_are_of_use(source: Path) -> None:
    units, matrix = units_of(source), matrix_of(source)
    plain = units["blk.0.attn_q.weight"].types
    assert set(plain) == {*TYPES, T.F16} - NEEDING_IMATRIX
    weighted = {u.name: u.types for u in find_units(parts_of(source), NO_WISHES, matrix)}
    assert set(weighted["blk.0.attn_q.weight"]) == {*TYPES, T.F16}
    assert not NEEDING_IMATRIX & set(weighted["output.weight"])  # the matrix has no entry of it


def test_what_a_user_wants_is_no_longer_chosen(source: Path) -> None:
    wishes = Wishes(
        output=parse_tensor_type("q6_k", "--output-tensor-type"),
        tensors=tuple(parse_tensor_types(["attn_v=q8_0"], "--tensor-type")),
    )
    units = units_of(source, wishes)
    assert units["output.weight"].types == (T.Q6_K,)
    assert units["blk.0.attn_v.weight"].types == (T.Q8_0,)
    assert units_of(source, Wishes(leaves_output=True))["output.weight"].types == (T.F16,)


def test_rows_of_few_blocks_and_quantised_sources_have_fewer_types(tmp_path: Path) -> None:
    shape = Shape(n_layer=1, n_embd=96, n_head=3, n_head_kv=3, n_ff=96, n_expert=0, n_vocab=300)
    path = write_mixtral(tmp_path / "odd.gguf", shape, recipe="Q8_0")
    types = units_of(path)["blk.0.ffn_down.weight"].types
    assert types == (T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.IQ4_NL, T.Q8_0)


# ---- errors ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_errors_are_those_of_the_blocks(source: Path) -> None:
    matrix, known = matrix_of(source), {}
    wishes = Wishes(tensors=tuple(parse_tensor_types(["ffn_down=q4_k", ".=f16"], "")))
    unit = replace(units_of(source)["blk.0.ffn_down_exps.weight"], types=(T.Q4_K, T.F16))
    with GgufFile.open(source) as file:
        measure_errors([unit], file, matrix, known=known)
        error = norm = 0.0
        plan = plan_quantize(source, FileType.Q4_K_M, wishes=wishes, imatrix=matrix)
        write_quantized(plan, source.with_name("q4.gguf"), n_threads=1)
        with GgufFile.open(source.with_name("q4.gguf")) as written:
            for e, used in enumerate([1, 3]):
                name = f"blk.0.ffn_down.{e}.weight"
                x = naive.dequantize(T.F16, file.tensor_bytes(name)).reshape(-1, 256)
                y = naive.dequantize(T.Q4_K, written.tensor_bytes(name)).reshape(-1, 256)
                weights = used * matrix.entries[unit.name].means[e].astype(np.float64)
                error += float((weights * (x - y).astype(np.float64) ** 2).sum())
                norm += float((weights * x.astype(np.float64) ** 2).sum())
    assert known[unit.name][T.Q4_K] == pytest.approx(error / norm, rel=1e-5)


@pytest.mark.slow
def test_more_bits_are_smaller_errors_and_the_source_has_none(source: Path) -> None:
    unit, known = units_of(source)["blk.0.attn_q.weight"], {}
    with GgufFile.open(source) as file:
        measure_errors([unit], file, None, known=known)
        errors = known[unit.name]
        assert errors[T.F16] == 0
        order = [T.Q8_0, T.Q6_K, T.Q5_K, T.Q4_K, T.Q3_K, T.Q2_K]
        assert [errors[t] for t in order] == sorted(errors[t] for t in order)
        again = {unit.name: {T.Q2_K: 0.5}}
        measure_errors([unit], file, None, known=again)
    assert again[unit.name] == errors | {T.Q2_K: 0.5}  # what is known is not measured


@pytest.mark.slow
def test_a_weight_that_is_no_number_is_named(source: Path) -> None:
    with GgufFile.open(source) as file:
        at = file.start_of("blk.0.attn_q.weight")
    raw = bytearray(source.read_bytes())
    raw[at : at + 2] = b"\x00\x7e"
    source.write_bytes(raw)
    unit = units_of(source)["blk.0.attn_q.weight"]
    with (
        GgufFile.open(source) as file,
        pytest.raises(GgufHubError, match=r"`blk.0.attn_q.weight \(a sample of its rows\)`.* nan"),
    ):
        measure_errors([unit], file, None, known={})


# ---- sensitivity -------------------------------------------------------------------------------


class FakeProber:
    """Divides a law of losses instead of running a model, and counts."""

    def __init__(self, kl: Callable[[Mapping[str, T]], float]) -> None:
        self.kl, self.n_opened = kl, 0

    def open(self) -> FakeProber:
        self.n_opened += 1
        return self

    def __enter__(self) -> FakeProber:
        return self

    def __exit__(self, *error: object) -> None: ...


def test_slope_and_rounding_are_solved_for(source: Path) -> None:
    unit = units_of(source)["blk.0.attn_q.weight"]
    errors = {unit.name: {T.Q3_K: 2e-2, T.Q6_K: 3e-4, T.Q8_0: 3e-5}}
    rounding = {T.Q3_K: 4e-6, T.Q6_K: 4e-6, T.Q8_0: 1e-6}
    law = {probe: 0.05 * errors[unit.name][probe] + rounding[probe] for probe in PROBES}
    fake, known = FakeProber(lambda types: law[types["blk.0.attn_q.weight"]]), {}
    measure_groups([[unit]], fake.open, known=known)  # type: ignore[arg-type]
    found = sensitivities([[unit]], known, errors)[unit.name]
    assert found.slope == pytest.approx(0.05)
    assert found.rounding == pytest.approx({"q8_k": 4e-6, "q8_0": 1e-6})
    assert found.loss(T.Q4_K, 5e-3) == pytest.approx(0.05 * 5e-3 + 4e-6)
    assert found.loss(T.F16, 0.0) == 0


def test_what_was_probed_is_not_probed_again(source: Path) -> None:
    group = [units_of(source)["blk.0.attn_q.weight"]]
    fake, known, saved = FakeProber(lambda types: 0.1), {group_key(group): {T.Q3_K: 0.5}}, []
    measure_groups([group], fake.open, known=known, save=lambda: saved.append(1))  # type: ignore[arg-type]
    assert known[group_key(group)] == {T.Q3_K: 0.5, T.Q6_K: 0.1, T.Q8_0: 0.1}
    assert len(saved) == 2
    measure_groups([group], fake.open, known=known)  # type: ignore[arg-type]
    assert fake.n_opened == 1


def test_layers_share_groups_where_there_are_many(tmp_path: Path) -> None:
    shape = Shape(n_layer=10, n_embd=32, n_head=1, n_head_kv=1, n_ff=32, n_expert=0, n_vocab=300)
    units = list(units_of(write_mixtral(tmp_path / "deep.gguf", shape, recipe="F16")).values())
    groups = group_units(units, max_groups=20)
    assert len(groups) <= 20
    assert sorted(unit.name for group in groups for unit in group) == sorted(u.name for u in units)
    of_values = [[u.name for u in g] for g in groups if "attn_v" in g[0].name]
    assert of_values == [
        [f"blk.{i}.attn_v.weight" for i in range(5)],
        [f"blk.{i}.attn_v.weight" for i in range(5, 10)],
    ]
    assert [len(group) for group in group_units(units, max_groups=100)] == [1] * len(units)


def test_a_source_of_few_bits_is_probed_by_the_smallest_type(tmp_path: Path) -> None:
    unit = units_of(write_mixtral(tmp_path / "q.gguf", SHAPE, recipe="Q2_K"))["blk.0.attn_k.weight"]
    assert probe_type(unit, T.Q3_K) is T.Q3_K  # attn_k is Q8_0 there
    other = Unit(unit.name, unit.parts, (T.IQ4_NL, T.Q8_0))
    assert probe_type(other, T.Q3_K) is T.IQ4_NL
    assert probe_type(other, T.Q6_K) is None


@pytest.mark.slow
def test_a_probe_is_the_source_with_other_weights(source: Path) -> None:
    plan = plan_quantize(source, FileType.F16, requantize=True)
    names = [part.spec.name for part in plan.parts if "attn_v" in part.spec.name]
    with Prober(plan, None, Text(CHUNKS, 1), n_threads=1) as prober:
        same = prober.kl(dict.fromkeys(names, T.F16))
        fine, coarse = (prober.kl(dict.fromkeys(names, t)) for t in (T.Q8_0, T.Q2_K))
    assert same < 1e-6  # the base's logits are kept in 16 bits
    assert same < fine < coarse


# ---- allocation --------------------------------------------------------------------------------


@pytest.fixture
def allocator(source: Path) -> Allocator:
    opened = open_allocator(source, imatrix=matrix_of(source), wishes=FEW)
    return opened.measured(Text(CHUNKS, 1), n_threads=1)


@pytest.mark.slow
def test_files_have_the_size_that_was_allocated(allocator: Allocator, tmp_path: Path) -> None:
    sizes = np.linspace(allocator.smallest_bytes, allocator.largest_bytes, 7).astype(int)
    losses = []
    for size_bytes in map(int, sizes):
        allocation = allocator.allocate(size_bytes)
        plan = allocator.plan(allocation)
        assert plan.size_bytes == allocation.size_bytes <= size_bytes
        losses.append(allocation.loss)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == 0  # all that has a choice keeps its type
    target = tmp_path / "out.gguf"
    write_quantized(allocator.plan(allocator.allocate(int(sizes[2]))), target, n_threads=1)
    assert target.stat().st_size <= sizes[2]
    written = GgufFile.open(target).tensors
    experts = {info.type for name, info in written.items() if ".ffn_down." in name}
    assert len(experts) == 1
    with pytest.raises(GgufHubError, match="the smallest file of it has"):
        allocator.allocate(allocator.smallest_bytes - 1)


@pytest.mark.slow
def test_what_was_measured_is_kept(allocator: Allocator, source: Path) -> None:
    with GgufFile.open(source) as file:
        kept = Kept.of(file, allocator.imatrix, CHUNKS)
        assert kept.errors == allocator.errors
        assert len(kept.probes) == 3
        others = [Kept.of(file, None, CHUNKS), Kept.of(file, allocator.imatrix, CHUNKS[:, :16])]
    assert all(other.errors == {} for other in others)
    opened = open_allocator(source, imatrix=allocator.imatrix, wishes=FEW, layout="merged")
    again = opened.measured(Text(CHUNKS, 1))
    assert again.sensitivities == allocator.sensitivities
    plan = again.plan(again.allocate(again.smallest_bytes + 5_000))
    assert "blk.0.ffn_up_exps.weight" in {part.spec.name for part in plan.parts}
    raw = bytearray(source.read_bytes())
    raw[-300_000:] = bytes(300_000)  # another model of the same shape
    source.write_bytes(raw)
    with GgufFile.open(source) as file:
        assert Kept.of(file, allocator.imatrix, CHUNKS).errors == {}


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"errors": 3}', '{"errors": {"a": 1, "b": {"Q9": 1, "Q4_K": "x"}}}']
)
def test_a_damaged_cache_is_measured_again(text: str, tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.write_text(text)
    assert Kept(path).errors == {}
    kept = Kept(path)
    kept.errors["a"] = {T.Q4_K: 0.25}
    kept.save()
    assert json.loads(path.read_text())["errors"] == {"a": {"Q4_K": 0.25}}
    assert Kept(path).errors == {"a": {T.Q4_K: 0.25}}
