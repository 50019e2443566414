"""LoRA adapters: what they add is what llama.cpp adds, and what merging them into weights does."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.errors import GgufHubError, UnsupportedGgufError, UsageError
from gguf_hub.gguf.memory.layout import Limits
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.upgrade import plan_upgrade
from gguf_hub.run.generation.saved_prompt import model_id_of
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.vm.bounds import Call
from gguf_hub.run.kernels.vm.effects import Effects, effects_of
from gguf_hub.run.kernels.vm.extents import prove
from gguf_hub.run.model.builder import ProgramBuilder
from gguf_hub.run.model.settings import AdapterFile, GpuSettings, ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.model.weights import read_model
from gguf_hub.run.opening import load_model
from tests.arch_models import N_CTX, TOKENS, write_arch_model
from tests.arch_recipes import RECIPES
from tests.lora import (
    ALPHA,
    EMBEDDINGS,
    RANK,
    SCALE,
    adaptable,
    make_pairs,
    merge,
    write_adapter,
    write_pair,
)
from tests.notes import Notes
from tests.synth import write_mixtral

SUMS = 3e-4
"""Logits may differ by so much because sums have another order."""
FEW = ("deepseek2", "gemma4-e", "gpt-oss", "llama-moe", "llama4", "phi3-long", "qwen2")
LLAMA_CPP = {
    "qwen2": (1.89398, 0.84747, -2.43581, -5.43579, 2.61560, -6.94182, 11.28849, -6.47869),
    "llama-moe": (0.97669, -3.12172, 0.13735, 3.51419, -3.53434, -0.69326, 0.78792, -2.58566),
    "llama-biased": (-0.30324, -0.70391, -1.38056, -3.03362, -1.58705, -0.19813, -0.9509, 2.47036),
    "gpt-oss": (0.54368, 1.08164, 0.44188, 0.36117, -0.88753, -2.87565, -3.38605, 3.04412),
    "olmo2": (-1.27821, -0.03202, 1.61508, -6.13010, -2.02938, 3.44606, -1.45689, 2.09626),
}  # fmt: skip
"""Of the last token, as ``tools/llama_cpp_adapters.py`` prints them (llama-cpp-python 0.3.36)."""
Q = "blk.0.attn_q.weight"


@pytest.fixture(scope="module")
def builder(kernels: None) -> KernelBuilder:
    """Link each kernel once for all models of this file."""
    return KernelBuilder()


@pytest.fixture
def logits(builder: KernelBuilder) -> Callable[..., np.ndarray]:
    """Compute the logits of all tokens, the first ``cut`` of them by themselves."""

    def forward(
        path: Path, *adapters: tuple[Path, float], cut: int = 0, **options: Any
    ) -> np.ndarray:
        with GgufFile.open(path) as file:
            model = Transformer.open(file, opened_with(*adapters, **options), builder=builder)
            try:
                parts = [(TOKENS[:cut], 0)] * bool(cut) + [(TOKENS[cut:], cut)]
                return np.concatenate([model.forward(*part, all_logits=True) for part in parts])
            finally:
                model.close()

    return forward


def opened_with(*adapters: tuple[Path, float], **options: Any) -> ModelSettings:
    exact = {"key_type": "F32", "value_type": "F32", "n_threads": 1}
    files = tuple(AdapterFile(*each) for each in adapters)
    return ModelSettings(n_ctx=N_CTX, n_logits=None, adapters=files, **{**exact, **options})


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in RECIPES],
)
def test_an_adapter_adds_what_merging_it_adds(name: str, logits: Any, tmp_path: Path) -> None:
    model, adapter, pairs = write_pair(tmp_path, name)
    merged = merge(model, tmp_path / "merged.gguf", pairs, SCALE * ALPHA / RANK)
    plain, expected = logits(model), logits(merged)
    found = logits(model, (adapter, SCALE))
    assert np.abs(found - expected).max() < SUMS < np.abs(expected - plain).max() / 10


@pytest.mark.parametrize("name", LLAMA_CPP)
def test_logits_are_llama_cpps(name: str, logits: Any, tmp_path: Path) -> None:
    model, adapter, _ = write_pair(tmp_path, name)
    found = logits(model, (adapter, SCALE))[-1]
    expected = LLAMA_CPP[name]
    np.testing.assert_allclose(found[: len(expected)], expected, atol=SUMS)


@pytest.mark.parametrize("name", ["llama-moe", "phi3-long"])
def test_logits_do_not_depend_on_the_cut_or_the_threads(
    name: str, logits: Any, tmp_path: Path
) -> None:
    model, adapter, _ = write_pair(tmp_path, name)
    whole = logits(model, (adapter, SCALE))
    for options in ({"cut": 21}, {"n_threads": 2}, {"n_threads": 2, "cut": 5}):
        np.testing.assert_array_equal(logits(model, (adapter, SCALE), **options), whole)


@pytest.mark.parametrize("name", ["qwen2", "llama-moe"])
def test_scale_0_is_no_adapter_to_the_bit(name: str, logits: Any, tmp_path: Path) -> None:
    model, adapter, _ = write_pair(tmp_path, name)
    np.testing.assert_array_equal(logits(model, (adapter, 0.0)), logits(model))


def test_several_adapters_add_up(logits: Any, tmp_path: Path) -> None:
    model = write_arch_model(tmp_path / "model.gguf", "llama-moe")
    target = model
    files = []
    with GgufFile.open(model) as file:
        for i, (rank, scale, names) in enumerate(
            ((RANK, 1.0, adaptable(file)), (5, -0.5, [Q, EMBEDDINGS, "blk.1.ffn_up_exps.weight"]))
        ):
            pairs = make_pairs(file, names, rank, seed=i)
            files.append((write_adapter(tmp_path / f"{i}.gguf", "llama", pairs), scale))
            target = merge(target, tmp_path / f"merged{i}.gguf", pairs, scale * ALPHA / rank)
    assert np.abs(logits(model, *files) - logits(target)).max() < SUMS


def test_an_adapter_without_alpha_has_the_users_scale(logits: Any, tmp_path: Path) -> None:
    model, _, pairs = write_pair(tmp_path, "qwen2")
    adapter = write_adapter(tmp_path / "0.gguf", "qwen2", pairs, keys={"adapter.lora.alpha": None})
    merged = merge(model, tmp_path / "merged.gguf", pairs, SCALE)
    assert np.abs(logits(model, (adapter, SCALE)) - logits(merged)).max() < SUMS


@pytest.mark.parametrize("type_", [QuantType.F16, QuantType.BF16, QuantType.Q8_0], ids=str)
def test_adapters_may_be_rounded(type_: QuantType, tmp_path: Path) -> None:
    model = write_arch_model(tmp_path / "model.gguf", "qwen2")
    with GgufFile.open(model) as file:
        pairs = make_pairs(file, [Q], rank=32)
        path = write_adapter(tmp_path / "lora.gguf", "qwen2", pairs, type_=type_)
        adapters = read_model(file, [AdapterFile(path)])[1].adapters
    delta = adapters.deltas[Q]
    for offset, matrix in zip((delta.a, delta.b), pairs[Q], strict=True):
        values = adapters.data[offset : offset + matrix.nbytes].view(np.float32)
        scale = 1 if offset == delta.a else ALPHA / 32
        np.testing.assert_allclose(values, scale * matrix.ravel(), atol=1e-3)


def test_embeddings_that_are_the_head_change_as_embeddings_alone(
    logits: Any, tmp_path: Path
) -> None:
    model = write_arch_model(tmp_path / "model.gguf", "gemma2")
    with GgufFile.open(model) as file:
        assert "output.weight" not in file.tensors
        pairs = make_pairs(file, [EMBEDDINGS])
        head = read_model(file)[1].output
        adapter = write_adapter(tmp_path / "lora.gguf", "gemma2", pairs)
        _, weights = read_model(file, [AdapterFile(adapter)])
    assert weights.token_embd.delta is not None
    assert weights.output == head
    assert not np.array_equal(logits(model, (adapter, 1.0)), logits(model))


def test_experts_with_tensors_of_their_own_take_the_adapters_of_merged_ones(
    logits: Any, tmp_path: Path
) -> None:
    split, merged = tmp_path / "split.gguf", tmp_path / "merged.gguf"
    plan_upgrade(write_mixtral(split, layout="split")).write(merged)
    with GgufFile.open(merged) as file:
        pairs = make_pairs(file, [f"blk.1.ffn_{part}_exps.weight" for part in ("gate", "down")])
    adapter = write_adapter(tmp_path / "lora.gguf", "llama", pairs)
    adapted = logits(merged, (adapter, 1.0))
    np.testing.assert_array_equal(logits(split, (adapter, 1.0)), adapted)
    assert np.abs(adapted - logits(merged)).max() > 0.1


@pytest.mark.parametrize("name", ["qwen2", "llama-moe", "qwen35moe-fused"])
def test_steps_stay_inside_of_memory_and_share_nothing_without_a_barrier(
    name: str, tmp_path: Path
) -> None:
    path, adapter, _ = write_pair(tmp_path, name)
    with GgufFile.open(path) as file:
        config, weights = read_model(file, [AdapterFile(adapter)])
        program = ProgramBuilder(config, weights, Limits(N_CTX, 8, 8, 2)).build()
        files = [file.data, weights.adapters.data]
        prove(program.steps, program.layout.blocks(), files, program.bounds)
    before: list[tuple[str, Effects]] = []
    for step in program.steps:
        own = effects_of(step, Call(step.types, program.bounds, program.bounds.span))
        for kernel, other in before:
            for first, second in ((own, other), (other, own)):
                for a, b in itertools.product(first.writes, (*second.writes, *second.reads)):
                    is_apart = a.array != b.array or a.first >= b.first + b.size
                    assert is_apart or b.first >= a.first + a.size, f"{kernel}, {step.kernel}"
        before = [] if step.is_barrier_after else [*before, (step.kernel, own)]


def test_caches_of_other_adapters_or_scales_are_told_apart(
    builder: KernelBuilder, tmp_path: Path
) -> None:
    path, adapter, _ = write_pair(tmp_path, "qwen2")
    ids = []
    for scales in ((), (0.0,), (1.0,), (1.0,), (0.5,)):
        with GgufFile.open(path) as file:
            settings = opened_with(*((adapter, scale) for scale in scales))
            model = Transformer.open(file, settings, builder=builder)
            ids.append(model_id_of(model, file))
            model.close()
    none, zero, one, again, half = ids
    assert none == zero
    assert one == again
    assert len({none, one, half}) == 3


def test_gpus_compute_no_layer_beside_adapters(builder: KernelBuilder, tmp_path: Path) -> None:
    path, adapter, _ = write_pair(tmp_path, "qwen2")
    notes, gpu = Notes(), GpuSettings(n_layers=99)
    with GgufFile.open(path) as file:
        settings = opened_with((adapter, 1.0), gpu=gpu)
        model = Transformer.open(file, settings, builder=builder, progress=notes)
        assert model.n_gpu_layers == 0
        model.close()
    assert any("of a model with LoRA adapters" in note for note in notes.texts)


def test_a_cluster_refuses_adapters(tmp_path: Path) -> None:
    path, adapter, _ = write_pair(tmp_path, "qwen2")
    host: Any = object()
    with GgufFile.open(path) as file, pytest.raises(UsageError, match="do not work with `--clust"):
        load_model(file, opened_with((adapter, 1.0)), host=host)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": ({"arch": "llama"}, "of architecture llama, but the model's is `qwen"),
    "another kind": ({"keys": {"adapter.type": "ia3"}}, "`adapter.type` ia3: expected `lora`"),
    "activated": (
        {"keys": {"adapter.alora.invocation_tokens": [1, 2]}}, "activated LoRA .* certain tokens",
    ),
    "alpha": ({"keys": {"adapter.lora.alpha": "8"}}, "`adapter.lora.alpha` 8: expected a number"),
    "not finite": ({"scale": 1e39}, "numbers that are not finite .*attn_q"),
    "a model": (
        {"keys": {"general.type": "model", "adapter.type": None}},
        "is a model: expected a LoRA adapter",
    ),
    "another tensor": ({"more": ["blk.0.attn_q.bias"]}, "`blk.0.attn_q.bias` is no part of a LoRA"),
    "half a pair": ({"more": ["blk.1.attn_q.weight.lora_a"]}, "attn_q.weight.lora_b` is missing"),
    "no pairs": ({"pairs": {}}, "is no complete LoRA adapter: no LoRA pairs"),
    "an unknown tensor": ({"rename": "blk.9.attn_q.weight"}, "no tensor `blk.9.attn_q.weight`"),
    "another shape": (
        {"rename": "blk.0.ffn_down.weight"},
        r"`blk.0.ffn_down.weight`: expected A and B of shapes \[\d+, r\] and \[r, 64\], found "
        r"\[64, 3\] and \[3, 64\]",
    ),
    "a norm": ({"rename": "blk.0.attn_norm.weight", "n_out": 1}, "cannot change here: `blk.0.attn"),
    "another type": ({"type_": QuantType.Q5_0, "rank": 32}, "is of type Q5_0: expected one of F32"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_adapter_of_the_model_is_refused(case: str, tmp_path: Path) -> None:
    changes, message = dict(REFUSED[case][0]), REFUSED[case][1]
    name, n_out = changes.pop("rename", Q), changes.pop("n_out", None)
    scale = changes.pop("scale", 1.0)
    with GgufFile.open(write_arch_model(tmp_path / "model.gguf", "qwen2")) as file:
        pairs = make_pairs(file, [Q], changes.pop("rank", RANK))
        a, b = pairs[Q]
        pairs = changes.pop("pairs", {name: (a, b[:, :n_out])})
        arch = changes.pop("arch", "qwen2")
        path = write_adapter(tmp_path / "lora.gguf", arch, pairs, **changes)
        with pytest.raises(UnsupportedGgufError, match=message) as caught:
            read_model(file, [AdapterFile(path, scale)])
        assert str(path) in caught.value.message


def test_a_missing_or_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    with GgufFile.open(write_arch_model(tmp_path / "model.gguf", "qwen2")) as file:
        (tmp_path / "text.gguf").write_text("no GGUF")
        for name in ("none.gguf", "text.gguf"):
            with pytest.raises(GgufHubError, match=re.escape(name)):
                read_model(file, [AdapterFile(tmp_path / name)])


def test_a_scale_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="scale nan of LoRA adapter `x`: expected a number"):
        ModelSettings(adapters=(AdapterFile(Path("x"), float("nan")),)).check()


def test_norms_are_left_out_with_a_note(tmp_path: Path) -> None:
    notes = Notes()
    with GgufFile.open(write_arch_model(tmp_path / "model.gguf", "qwen2")) as file:
        pairs, norm = make_pairs(file, [Q]), "blk.0.attn_norm.weight"
        path = write_adapter(tmp_path / "lora.gguf", "qwen2", pairs, more=[norm])
        read_model(file, [AdapterFile(path)], notes)
    assert [note for note in notes.texts if norm in note and "not used, as in llama.cpp" in note]
