"""Every architecture's tiny model: llama.cpp's logits, no part ignored, the same bits either way.

An architecture that does not run here is refused by name before anything is computed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.arch import ARCHITECTURES
from gguf_hub.gguf.format import TensorSpec
from gguf_hub.gguf.hparams import GRAPH_HPARAMS
from gguf_hub.gguf.memory.layout import Limits
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import QuantType
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.vm.extents import prove
from gguf_hub.run.model.builder import ProgramBuilder
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.model.weights import read_model
from tests.arch_models import (
    KEPT,
    N_CTX,
    POSITIONS,
    TOKENS,
    group_of,
    keys_of,
    tensor_specs,
    write_arch_model,
)
from tests.arch_recipes import RECIPES
from tests.conftest import ROOT
from tests.encoder_recipes import ENCODERS
from tests.run.model.graphs import ODD, check_barriers, other_value

SUMS = 2e-4
"""Logits may differ by so much because sums have another order; in float64 it is 8e-5."""
GELU = 1e-2
"""ggml reads GELU from a table of halves: exact GELU differs by up to 4.2e-3 here."""

OPTIONAL = (
    "output.weight", "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight",
    "attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_qkv.bias", "attn_output.bias",
    "ffn_gate.bias", "ffn_up.bias", "ffn_down.bias", "exp_probs_b.bias", "ssm_conv1d.bias",
    "layer_output_scale.weight", "ffn_down_exps.scale", "ffn_gate_inp_shexp.weight",
)  # fmt: skip
"""With and without these, llama.cpp runs a model of some architectures."""
OPTIONAL_OF = {
    "glm4moe": ("attn_q_norm.weight", "attn_k_norm.weight"),
    "gemma4": ("attn_v.weight",),
    "command-r": ("attn_q_norm.weight", "attn_k_norm.weight"),
    "falcon": ("attn_norm_2.weight", "attn_norm_2.bias"),
    "stablelm": ("attn_q_norm.weight", "attn_k_norm.weight"),
    "mpt": ("attn_norm.bias", "ffn_norm.bias", "output_norm.bias"),
    "falcon-h1": ("ssm_norm.weight",),
    "mimo2": ("attn_sinks.weight",),
    "step35": ("attn_q_norm.weight", "attn_k_norm.weight", "attn_gate.weight"),
}
"""The same, of an architecture."""
INSTEAD = {
    "attn_qkv": "attn_q",
    "ffn_gate_inp": "ffn_gate_exps",
    "ffn_up_shexp": "ffn_down_shexp",
    "ffn_gate_up_exps": "ffn_up_exps",
}
"""What may be named in place of a missing tensor: what a model of another form would have instead
of it, or what is of no use without it."""


@pytest.fixture(scope="module")
def builder(kernels: None) -> KernelBuilder:
    """Link each kernel once for all models of this file."""
    return KernelBuilder()


@pytest.fixture
def open_model(builder: KernelBuilder) -> Iterator[Callable[..., Transformer]]:
    """Open models that are closed after the test."""
    opened: list[Transformer] = []

    def open_(path: Path, **options: Any) -> Transformer:
        settings = ModelSettings(n_ctx=N_CTX, n_logits=None, **{"n_threads": 1, **options})
        opened.append(Transformer.open(GgufFile.open(path), settings, builder=builder))
        return opened[-1]

    yield open_
    for model in opened:
        model.close()


@cache
def known(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return llama.cpp's logits and the facts on each model."""
    models = json.loads((folder / "models.json").read_text())
    return dict(zip(models, np.load(folder / "logits.npy"), strict=True)), models


@pytest.mark.parametrize("name", RECIPES)
def test_models_are_those_that_llama_cpp_read(name: str, data: Path, tmp_path: Path) -> None:
    path = write_arch_model(tmp_path / "model.gguf", name)
    _, models = known(data / "arch-logits")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == models[name]["sha256"]


def test_docs_list_every_architecture() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    table = page.partition("## Architectures")[2].partition("\n## ")[0]
    cells = [row.split("|")[2] for row in table.splitlines() if row.startswith("|")]
    assert set(re.findall("`(.+?)`", " ".join(cells))) == set(ARCHITECTURES)


def test_each_architecture_has_a_model() -> None:
    recipes = [*RECIPES.values(), *ENCODERS.values()]
    assert {recipe.arch for recipe in recipes} == set(ARCHITECTURES)


def test_an_architecture_that_does_not_run_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(RECIPES, "other", replace(RECIPES["qwen2"], arch="deepseek4"))
    with pytest.raises(UnsupportedGgufError, match="`deepseek4` is not one that runs here"):
        read_model(GgufFile.open(write_arch_model(tmp_path / "model.gguf", "other")))


def rounding_of_gelu(name: str) -> float:
    """Return by how much logits may differ because ggml reads GELU from a table."""
    return GELU if "gelu" in ARCHITECTURES[RECIPES[name].arch].activation else 0


@pytest.mark.parametrize("name", RECIPES)
def test_logits_are_llama_cpps(name: str, data: Path, open_model: Any, tmp_path: Path) -> None:
    logits, models = known(data / "arch-logits")
    model = open_model(write_arch_model(tmp_path / "model.gguf", name))
    found = model.forward(TOKENS, 0, all_logits=True)[list(POSITIONS)]
    # llama.cpp's cache was F32 and ours has halves, which changes its own logits by `f16`
    allowed = 2 * models[name]["f16"] + SUMS + rounding_of_gelu(name)
    assert np.abs(found[:, KEPT] - logits[name]).max() <= allowed


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_with_an_f32_cache_nothing_but_sums_differs(
    name: str, data: Path, open_model: Any, tmp_path: Path
) -> None:
    logits, _ = known(data / "arch-logits")
    path = write_arch_model(tmp_path / "model.gguf", name)
    model = open_model(path, key_type="F32", value_type="F32", n_threads=2)
    found = model.forward(TOKENS, 0, all_logits=True)
    allowed = SUMS + rounding_of_gelu(name)
    assert np.abs(found[list(POSITIONS)][:, KEPT] - logits[name]).max() <= allowed
    single = [model.forward([token], i)[0] for i, token in enumerate(TOKENS)]
    np.testing.assert_array_equal(single, found)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_logits_do_not_depend_on_the_cut_or_the_threads(
    name: str, open_model: Any, tmp_path: Path
) -> None:
    path = write_arch_model(tmp_path / "model.gguf", name)
    one = open_model(path)
    whole = one.forward(TOKENS, 0, all_logits=True)
    single = [one.forward([token], i)[0] for i, token in enumerate(TOKENS)]
    np.testing.assert_array_equal(single, whole)
    two = open_model(path, n_threads=2)
    np.testing.assert_array_equal(two.forward(TOKENS, 0, all_logits=True), whole)
    single = [two.forward([token], i)[0] for i, token in enumerate(TOKENS)]
    np.testing.assert_array_equal(single, whole)


@pytest.mark.parametrize("name", RECIPES)
def test_no_step_touches_what_another_thread_may_still_write(name: str, tmp_path: Path) -> None:
    with GgufFile.open(write_arch_model(tmp_path / "model.gguf", name)) as file:
        program = ProgramBuilder(*read_model(file), Limits(N_CTX, 8, 8, 2)).build()
    check_barriers(program)


@pytest.mark.parametrize("name", ["gemma4-dense", "gemma4-e", "deepseek2", "deepseek2-old"])
def test_caches_whose_layers_differ_are_copied_and_used_side_by_side(
    name: str, open_model: Any, tmp_path: Path
) -> None:
    model = open_model(write_arch_model(tmp_path / "model.gguf", name), n_slots=3)
    n = len(TOKENS) - 1
    wanted = model.forward(TOKENS, 0)
    saved = model.save_cache(n)
    assert saved.size == model.cache_size(n)
    other = model.forward(TOKENS[::-1], 0, slot=1)
    model.copy_cache(0, 2, n)
    model.forward(TOKENS[::-1], 0)
    model.load_cache(saved, n)
    rows = [(0, TOKENS[-1], n), (1, TOKENS[0], n), (2, TOKENS[-1], n)]
    found = model.decode(rows)
    np.testing.assert_array_equal(found, np.concatenate([wanted, other, wanted]))


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_tensor_changes_the_logits(name: str, open_model: Any, tmp_path: Path) -> None:
    recipe = RECIPES[name]
    groups = {group_of(spec.name) for spec in tensor_specs(recipe)}
    unused = {group for group in groups if group.removesuffix(".weight") in recipe.unused.split()}
    assert groups_without_effect(name, groups, open_model, tmp_path) == unused


def groups_without_effect(name: str, groups: set[str], open_model: Any, folder: Path) -> set[str]:
    """Return the groups of tensors whose values the logits do not depend on."""
    base = forward(write_arch_model(folder / "base.gguf", name), open_model)
    changed = folder / "changed.gguf"
    return {
        group
        for group in groups
        if np.array_equal(forward(write_arch_model(changed, name, changed=group), open_model), base)
    }


def forward(path: Path, open_model: Any) -> np.ndarray:
    """Return the logits of the last positions, and of one in the middle."""
    model = open_model(path)
    return np.array(model.forward(TOKENS, 0, all_logits=True)[list(POSITIONS)])


@pytest.mark.parametrize("name", RECIPES)
def test_every_key_changes_the_logits_or_is_refused(
    name: str, open_model: Any, tmp_path: Path
) -> None:
    recipe = RECIPES[name]
    base = forward(write_arch_model(tmp_path / "base.gguf", name), open_model)
    without_effect = set()
    for key, value in keys_of(recipe).items():
        if (other := other_value(key, value)) is None:
            continue
        path = write_arch_model(tmp_path / "changed.gguf", name, keys={key: other})
        try:
            if np.array_equal(forward(path, open_model), base):
                without_effect.add(key)
        except UnsupportedGgufError as exc:  # by the key, or by a tensor that no longer fits it
            assert f"{recipe.arch}.{key}" in str(exc) or "tensor `" in str(exc)
    assert without_effect == {key for key in recipe.unused.split() if key in keys_of(recipe)}


@pytest.mark.slow
@settings(max_examples=200)
@given(st.data())
def test_any_value_of_a_key_is_computed_with_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(RECIPES)))
    known = sorted({*GRAPH_HPARAMS, *keys_of(RECIPES[name])} - {"vocab_size"})
    odd = data.draw(st.dictionaries(st.sampled_from(known), st.sampled_from(ODD), min_size=1,
                                    max_size=2))  # fmt: skip
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    try:
        write_arch_model(path, name, keys=odd)
    except (ValueError, ZeroDivisionError):
        reject()  # the shapes of tensors follow from the key
    with GgufFile.open(path) as file:
        try:
            program = ProgramBuilder(*read_model(file), Limits(40, 8, 8, 1)).build()
        except UnsupportedGgufError:
            return
        prove(program.steps, program.layout.blocks(), [file.data], program.bounds)


def write_and_read(name: str, tensors: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Write a model with other tensors and judge it; nothing is computed."""
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    read_model(GgufFile.open(write_arch_model(path, name, tensors=tensors)))


@pytest.mark.slow
@settings(max_examples=60)
@given(st.data())
def test_a_missing_tensor_is_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(RECIPES)))
    gone = data.draw(st.sampled_from(needed(name)))
    with pytest.raises(UnsupportedGgufError) as caught:
        write_and_read(name, lambda specs: [s for s in specs if s.name != gone], tmp_path_factory)
    names = [gone, *(gone.replace(part, named) for part, named in INSTEAD.items() if part in gone)]
    assert any(f"`{each}`" in str(caught.value) for each in names)


def needed(name: str) -> list[str]:
    """Return the tensors without which nothing can run a model."""
    recipe = RECIPES[name]
    n_layer = len(recipe.layers) - recipe.keys.get("nextn_predict_layers", 0)
    optional = OPTIONAL + OPTIONAL_OF.get(recipe.arch, ())
    return [
        spec.name
        for spec in tensor_specs(recipe)
        if group_of(spec.name) not in optional and not spec.name.startswith(f"blk.{n_layer}.")
    ]


@pytest.mark.slow
@settings(max_examples=60)
@given(st.data())
def test_an_extra_tensor_is_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(RECIPES)))
    extra = data.draw(st.sampled_from(foreign_groups(RECIPES[name].arch)))
    spec = TensorSpec(f"blk.{data.draw(st.integers(0, 2))}.{extra}", (64,), QuantType.F32)
    with pytest.raises(UnsupportedGgufError) as caught:
        write_and_read(name, lambda specs: [*specs, spec], tmp_path_factory)
    assert f"`{spec.name}`" in str(caught.value)


@cache
def foreign_groups(arch: str) -> list[str]:
    """Return groups of tensors that other architectures have and no model of this one."""
    renamed = {"output_norm.weight"}  # in files of LFM2 as Ollama writes them
    groups: dict[bool, set[str]] = {True: set(), False: {"frobnicate.weight"}}
    for recipe in RECIPES.values():
        groups[recipe.arch == arch] |= {group_of(spec.name) for spec in tensor_specs(recipe)}
    return sorted(groups[False] - groups[True] - set(OPTIONAL) - renamed)


@pytest.mark.parametrize(
    ("name", "keys", "problem"),
    [
        ("gemma4-e", {"attention.shared_kv_layers": 6}, "gemma4.attention.shared_kv_layers`: 6 of"),
        ("gemma4-e", {"attention.head_count_kv": [2, 2, 1, 2, 2, 2]}, "tensor `blk.2.attn_k"),
        ("gemma4-e", {"attention.head_count_kv": [2, 2, 2, 2, 1, 2]}, "cannot read layer 2's keys"),
        ("gemma4-e", {"attention.head_count_kv": [2, 2, 2, 2, 0, 2]}, "holds 0, expected whole"),
        ("gemma4-e", {"feed_forward_length": [96] * 5}, "one number for each of 6 layers, found 5"),
        ("deci", {"feed_forward_length": [96, 64, 0, 0, 128]}, "0 in layer 2, which has heads"),
        ("gemma4-dense", {"attention.value_length_swa": 8}, "tensor `blk.0.attn_v.weight` has"),
        ("qwen3", {"attention.head_count_kv": [2, 1, 2]}, "`qwen3.attention.head_count_kv`"),
        ("deepseek2", {"attention.head_count_kv": 2}, "head_count_kv`: expected 1, found 2"),
        ("deepseek2", {"attention.key_length": 40}, "kv_lora_rank` \\+ .* = 48, found 40"),
        ("deepseek2-old", {"attention.key_length": 16}, "expected less than the head's 16"),
        ("deepseek2", {"block_count": 2**31 - 1}, "missing tensor `blk.3"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(
    name: str, keys: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    specs = tensor_specs(RECIPES[name])
    path = write_arch_model(tmp_path / "model.gguf", name, keys=keys, tensors=lambda _: specs)
    with pytest.raises(UnsupportedGgufError, match=problem):
        read_model(GgufFile.open(path))


def test_heads_of_values_shorter_than_those_of_keys_are_refused(tmp_path: Path) -> None:
    halves = {("attn_v.weight", (64, 32)): (64, 16), ("attn_output.weight", (64, 64)): (32, 64)}

    def halved(specs: list[TensorSpec]) -> list[TensorSpec]:
        parts = [(spec.name.split(".", 2)[-1], spec.shape) for spec in specs]
        return [replace(spec, shape=halves.get(part, spec.shape))
                for spec, part in zip(specs, parts, strict=True)]  # fmt: skip

    keys = {"attention.value_length_swa": 8}
    path = write_arch_model(tmp_path / "model.gguf", "gemma4-dense", keys=keys, tensors=halved)
    with pytest.raises(UnsupportedGgufError, match="length of 16, those of values one of 8"):
        read_model(GgufFile.open(path))
