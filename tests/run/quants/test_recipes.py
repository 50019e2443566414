"""Which type each tensor gets: against the catalog and against counts that llama.cpp prints."""

from __future__ import annotations

import hashlib
import re
from collections import Counter

import pytest

from gguf_hub.errors import UsageError
from gguf_hub.gguf.format import TensorSpec, tensor_size_bytes
from gguf_hub.gguf.types import FileType
from gguf_hub.gguf.types import QuantType as T
from gguf_hub.hub.catalog import load_catalog
from gguf_hub.run.quants.recipes import (
    ModelShape,
    Wishes,
    choose_types,
    fitting,
    is_quantisable,
    needs_imatrix,
    parse_file_type,
)
from tests.run.quants.mix_models import MODELS
from tests.run.quants.mix_snapshots import FILE_TYPES, SNAPSHOTS
from tests.synth import Shape, tensors

LLAMA_7B = Shape(n_embd=4096, n_head_kv=32, n_ff=11008, n_expert=0)
LLAMA_70B = Shape(n_layer=80, n_embd=8192, n_head=64, n_head_kv=8, n_ff=28672, n_expert=0)


def facts(shape: Shape) -> ModelShape:
    return ModelShape(shape.n_layer, shape.n_head, shape.n_head_kv, shape.n_expert)


def counts(shape: Shape, name: str, *, layout: str = "merged", **options) -> Counter[str]:
    """Type -> number of tensors; floats that stay are left out."""
    specs = tensors(shape, layout, "F16")
    chosen = choose_types(specs, facts(shape), parse_file_type(name), **options)
    return Counter(
        choice.type.name for spec, choice in zip(specs, chosen, strict=True) if is_quantisable(spec)
    )


@pytest.mark.parametrize("file", load_catalog().files, ids=lambda file: file.quant)
@pytest.mark.parametrize("layout", ["split", "merged"])
def test_the_cards_recipe_gives_the_catalogs_bytes(file, layout: str) -> None:
    specs = tensors(Shape(), "split", "F16")
    if layout == "merged":
        specs = [
            TensorSpec(s.name, s.shape, T.F16 if "gate_inp" in s.name else s.type)
            for s in tensors(Shape(), "merged", "F16")
        ]
    chosen = choose_types(specs, facts(Shape()), parse_file_type(file.quant), recipe="card")
    pairs = zip(specs, chosen, strict=True)
    total = sum(tensor_size_bytes(spec.shape, choice.type) for spec, choice in pairs)
    assert total == file.tensor_bytes


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # what llama.cpp prints when it loads files of Llama 2 7B
        ("Q2_K", {"Q2_K": 129, "Q3_K": 96, "Q6_K": 1}),
        ("Q3_K_S", {"Q3_K": 225, "Q6_K": 1}),
        ("Q3_K_M", {"Q3_K": 129, "Q4_K": 92, "Q5_K": 4, "Q6_K": 1}),
        ("Q3_K_L", {"Q3_K": 129, "Q5_K": 96, "Q6_K": 1}),
        ("Q4_0", {"Q4_0": 225, "Q6_K": 1}),
        ("Q4_K_S", {"Q4_K": 217, "Q5_K": 8, "Q6_K": 1}),
        ("Q4_K_M", {"Q4_K": 193, "Q6_K": 33}),
        ("Q5_K_S", {"Q5_K": 225, "Q6_K": 1}),
        ("Q5_K_M", {"Q5_K": 193, "Q6_K": 33}),
        ("Q6_K", {"Q6_K": 226}),
        ("Q8_0", {"Q8_0": 226}),
        ("F16", {"F16": 226}),
    ],
)
def test_todays_mixes_of_a_dense_model(name: str, expected: dict[str, int]) -> None:
    assert counts(LLAMA_7B, name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # 32 attn_k and attn_v each in Q8_0; ffn_down_exps of 16 of 32 layers with more bits
        ("Q4_K_M", {"Q8_0": 64, "Q5_K": 32, "Q4_K": 32 * 4 - 16 + 1, "Q6_K": 17}),
        ("Q5_K_M", {"Q8_0": 64, "Q5_K": 32 * 5 - 16 + 1, "Q6_K": 17}),
        ("Q2_K", {"Q8_0": 64, "Q5_K": 32, "Q3_K": 32, "Q2_K": 32 * 3 + 1, "Q6_K": 1}),
        ("Q3_K_L", {"Q8_0": 64, "Q5_K": 32, "Q3_K": 32 * 4 + 1, "Q6_K": 1}),
    ],
)
def test_todays_mixes_of_mixtral(name: str, expected: dict[str, int]) -> None:
    assert counts(Shape(), name) == expected


def test_split_experts_get_the_types_of_merged_ones() -> None:
    merged, split = (counts(Shape(), "Q4_K_M", layout=layout) for layout in ("merged", "split"))
    assert split["Q6_K"] == 8 * (merged["Q6_K"] - 1) + 1
    assert split["Q8_0"] == merged["Q8_0"]


def test_values_of_the_70b_are_raised_and_shared_values_too() -> None:
    """Eight query heads share a value head: the matrix is small, and bits there are cheap."""
    assert counts(LLAMA_70B, "Q4_K_S")["Q5_K"] == 80 + 10
    grouped = Shape(n_layer=22, n_head_kv=4, n_ff=5632, n_expert=0)
    assert counts(grouped, "Q2_K")["Q4_K"] == 22


def test_embeddings_that_give_the_logits_get_the_output_type() -> None:
    specs = [s for s in tensors(LLAMA_7B, "merged", "F16") if s.name != "output.weight"]
    chosen = {c.name: c.type for c in choose_types(specs, facts(LLAMA_7B), FileType.Q4_0)}
    assert chosen["token_embd.weight"] is T.Q6_K


def test_pure_gives_one_type_and_the_output_may_be_told() -> None:
    assert counts(Shape(), "Q4_K_M", wishes=Wishes(is_pure=True)) == {"Q4_K": 32 * 7 + 2}
    told = counts(Shape(), "Q4_K_M", wishes=Wishes(is_pure=True, output=T.Q8_0))
    assert told == {"Q4_K": 32 * 7 + 1, "Q8_0": 1}


@pytest.mark.parametrize("n_expert", [0, 4])
def test_the_card_knows_models_of_eight_experts_only(n_expert: int) -> None:
    shape = Shape(n_layer=1, n_expert=n_expert)
    with pytest.raises(UsageError, match=f"8 experts: this one has {n_expert}"):
        counts(shape, "Q4_K_M", recipe="card")


@pytest.mark.parametrize(
    ("wanted", "row_length", "expected"),
    [
        (T.Q4_K, 512, T.Q4_K),
        (T.Q2_K, 288, T.Q4_0),
        (T.Q3_K, 288, T.Q4_0),
        (T.Q4_K, 288, T.Q5_0),
        (T.Q5_K, 288, T.Q5_1),
        (T.Q6_K, 288, T.Q8_0),
        (T.Q4_K, 50, T.F16),
        (T.Q8_0, 50, T.F16),
        (T.BF16, 50, T.BF16),
    ],
    ids=str,
)
def test_rows_that_do_not_fill_blocks_get_smaller_ones(wanted: T, row_length: int, expected: T):
    assert fitting(wanted, row_length) is expected


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("blk.0.attn_q.weight", (256, 256), True),
        ("blk.0.ffn_up_exps.weight", (256, 512, 8), True),
        ("blk.0.attn_norm.weight", (256,), False),
        ("blk.0.attn_norm.weight", (256, 2), False),
        ("blk.0.ffn_gate_inp.weight", (256, 8), False),
        ("blk.0.attn_q.bias", (256, 2), False),
        ("blk.0.attn_q.weight", (256, 1), False),
        ("scalar.weight", (), False),
    ],
)
def test_only_matrices_are_quantised(name: str, shape: tuple[int, ...], expected: bool) -> None:
    assert is_quantisable(TensorSpec(name, shape, T.F32)) is expected


def test_names_of_types_are_found_in_any_case() -> None:
    assert parse_file_type("q4_k") is FileType.Q4_K_M
    assert parse_file_type("Bf16") is FileType.BF16
    with pytest.raises(UsageError, match="`Q9` is not a type") as error:
        parse_file_type("Q9")
    assert "Q4_K_M" in (error.value.hint or "")


# -- mixes of every kind of model ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_mixes_are_llama_cpps_snapshots(model: str) -> None:
    specs, found = MODELS[model].tensors(), {}
    for name in set(FILE_TYPES.split()) & set(FileType.__members__):
        chosen = choose_types(specs, MODELS[model].shape, FileType[name])
        text = "\n".join(f"{c.name} {c.type.name}" for c in sorted(chosen, key=lambda c: c.name))
        found[name] = hashlib.sha256(text.encode()).hexdigest()[:6]
    expected = dict(zip(FILE_TYPES.split(), SNAPSHOTS[model].split(), strict=True))
    assert found == {name: expected[name] for name in found}


def types_of(name: str, model: str = "qwen3-14b", **options) -> dict[str, T]:
    chosen = choose_types(MODELS[model].tensors(), MODELS[model].shape, FileType[name], **options)
    return {choice.name: choice.type for choice in chosen}


def test_an_importance_matrix_changes_what_early_layers_get() -> None:
    changes = {"Q4_0": (T.Q4_0, T.Q4_1), "Q5_0": (T.Q5_0, T.Q5_1)}
    for name, (plain, weighted) in changes.items():
        before, after = types_of(name), types_of(name, has_imatrix=True)
        changed = {n: t for n, t in after.items() if t is not before[n]}
        assert changed == {f"blk.{i}.ffn_down.weight": weighted for i in range(40 // 8)}
        assert before["blk.0.ffn_down.weight"] is plain
    assert types_of("Q4_K_M") == types_of("Q4_K_M", has_imatrix=True)


def test_wishes_come_before_the_mix() -> None:
    patterns = [("attn_v", T.Q8_0), (r"blk\.1\.", T.F16), ("output", T.Q4_0)]
    wishes = Wishes(
        output=T.Q5_1,
        embeddings=T.Q8_0,
        tensors=tuple((re.compile(pattern), type) for pattern, type in patterns),
    )
    types = types_of("Q4_K_M", wishes=wishes)
    assert types["output.weight"] is T.Q5_1
    assert types["token_embd.weight"] is T.Q8_0
    assert types["blk.1.attn_v.weight"] is T.Q8_0
    assert types["blk.1.ffn_up.weight"] is T.F16
    assert types["blk.2.ffn_up.weight"] is T.Q4_K
    assert types_of("Q4_K_M", wishes=Wishes(leaves_output=True))["output.weight"] is T.F32
    pure = types_of("Q4_K_M", wishes=Wishes(is_pure=True, tensors=wishes.tensors))
    assert pure["blk.2.ffn_down.weight"] is T.Q4_K
    assert pure["blk.2.attn_v.weight"] is T.Q8_0


def test_the_smallest_types_need_an_importance_matrix_but_for_lookups() -> None:
    assert needs_imatrix("blk.0.attn_q.weight", T.IQ2_XS, FileType.Q4_0)
    assert needs_imatrix("blk.0.attn_q.weight", T.Q2_K, FileType.Q2_K_S)
    assert not needs_imatrix("blk.0.attn_q.weight", T.Q2_K, FileType.Q2_K)
    assert not needs_imatrix("blk.0.attn_q.weight", T.IQ3_S, FileType.Q4_0)
    assert not needs_imatrix("token_embd.weight", T.IQ2_XS, FileType.Q4_0)
    assert not needs_imatrix("output.weight", T.Q2_K, FileType.Q2_K_S)
