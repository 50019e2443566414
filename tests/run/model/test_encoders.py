"""Encoders: llama.cpp's vectors, no part ignored, the same bits either way, no text generated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from gguf_hub.errors import ContextFullError, UnsupportedGgufError, UsageError
from gguf_hub.gguf.format import TensorSpec
from gguf_hub.gguf.hparams import GRAPH_HPARAMS
from gguf_hub.gguf.memory.layout import Limits
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import QuantType
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.build.library import kernel_function
from gguf_hub.run.kernels.vm.extents import prove
from gguf_hub.run.kernels.vm.machine import PlainMachine
from gguf_hub.run.model.builder import ProgramBuilder
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.model.weights import read_model
from tests.arch_models import TOKENS, group_of, keys_of, tensor_specs, write_arch_model
from tests.encoder_recipes import ENCODERS, VECTOR_POSITIONS
from tests.run.model.graphs import ODD, check_barriers, other_value

ROUNDED = 1e-3
"""Numbers of a size of 1 may differ by so much because sums have another order: what is near the
middle of two halves is then rounded to the other one before GELU. It is 7e-4; without GELU 4e-6."""
GELU = 5e-3
"""ggml reads GELU from a table of halves."""


@pytest.fixture(scope="module")
def builder(kernels: None) -> KernelBuilder:
    """Link each kernel once for all models of this file."""
    return KernelBuilder()


@pytest.fixture
def open_model(builder: KernelBuilder) -> Iterator[Callable[..., Transformer]]:
    """Open models that are closed after the test."""
    opened: list[Transformer] = []

    def open_(path: Path, **options: Any) -> Transformer:
        opening = ModelSettings(**{"n_threads": 1, "n_ctx": 64, **options})
        opened.append(Transformer.open(GgufFile.open(path), opening, builder=builder))
        return opened[-1]

    yield open_
    for model in opened:
        model.close()


@cache
def known(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return llama.cpp's vectors and the hash of each model."""
    hashes = json.loads((folder / "models.json").read_text())
    return dict(zip(hashes, np.load(folder / "vectors.npy"), strict=True)), hashes


@pytest.mark.parametrize("name", ENCODERS)
def test_models_are_those_that_llama_cpp_read(name: str, data: Path, tmp_path: Path) -> None:
    path = write_arch_model(tmp_path / "model.gguf", name)
    _, hashes = known(data / "encoder-vectors")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == hashes[name]


@pytest.mark.parametrize("name", ENCODERS)
def test_vectors_are_llama_cpps(name: str, data: Path, open_model: Any, tmp_path: Path) -> None:
    vectors, _ = known(data / "encoder-vectors")
    model = open_model(write_arch_model(tmp_path / "model.gguf", name))
    found = model.embed(TOKENS)[list(VECTOR_POSITIONS)]
    np.testing.assert_allclose(found, vectors[name], rtol=0, atol=GELU)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "modern-bert", "nomic-bert-moe"])  # slow: in plain Python
def test_with_ggmls_gelu_nothing_but_sums_differs(name: str, data: Path, tmp_path: Path) -> None:
    vectors, _ = known(data / "encoder-vectors")
    n = len(TOKENS)
    with GgufFile.open(write_arch_model(tmp_path / "model.gguf", name)) as file:
        config, weights = read_model(file)
        limits = Limits(n, n, n, 1).of_encoder(config.n_ctx_train)
        program = ProgramBuilder(config, weights, limits).build()
        machine = PlainMachine(program.memory([file.data]), ggml_function)
        model = Transformer(config, program, machine, limits)
        found = model.embed(TOKENS)[list(VECTOR_POSITIONS)]
    np.testing.assert_allclose(found, vectors[name], rtol=0, atol=ROUNDED)


def ggml_function(name: str, isa: str) -> Callable[..., None]:
    """Return a step, GELU as ggml's table of halves has it."""

    def gelu(tid: int, nth: int, n: Any, f: Any, q: Any, kv: Any, w: Any, gate: int, width: int,
             count: int) -> None:  # fmt: skip
        x = f[gate : gate + width * n[count]]
        half = x.astype(np.float16).astype(np.float64)
        inner = np.sqrt(2 / np.pi) * half * (1 + 0.044715 * half * half)
        from_table = (half * (1 + np.tanh(inner)) / 2).astype(np.float16)
        x[:] = np.where(x >= 10, x, np.where(x <= -10, 0, from_table))

    def gelu_mul(tid: int, nth: int, n: Any, f: Any, q: Any, kv: Any, w: Any, gate: int, up: int,
                 width: int, count: int) -> None:  # fmt: skip
        gelu(tid, nth, n, f, q, kv, w, gate, width, count)
        size = width * n[count]
        f[gate : gate + size] *= f[up : up + size]

    return {"gelu": gelu, "gelu_mul": gelu_mul}.get(name) or plain_function(name, isa)


plain_function = cache(kernel_function)


@pytest.mark.parametrize("name", ENCODERS)
def test_vectors_do_not_depend_on_threads_slots_and_other_texts(
    name: str, open_model: Any, tmp_path: Path
) -> None:
    path = write_arch_model(tmp_path / "model.gguf", name)
    wanted = open_model(path).embed(TOKENS)
    model = open_model(path, n_threads=2, n_slots=2, n_batch=4, n_ctx=32)
    other = model.embed(TOKENS[::-1], 1)
    np.testing.assert_array_equal(model.embed(TOKENS), wanted)
    np.testing.assert_array_equal(model.embed(TOKENS[::-1]), other)
    np.testing.assert_array_equal(model.embed(TOKENS, 1), wanted)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_token_sees_those_behind_it(name: str, open_model: Any, tmp_path: Path) -> None:
    model = open_model(write_arch_model(tmp_path / "model.gguf", name))
    assert not np.allclose(model.embed(TOKENS)[0], model.embed(TOKENS[:4])[0])


@pytest.mark.parametrize("name", ENCODERS)
def test_no_step_touches_what_another_thread_may_still_write(name: str, tmp_path: Path) -> None:
    with GgufFile.open(write_arch_model(tmp_path / "model.gguf", name)) as file:
        model = read_model(file)
        program = ProgramBuilder(*model, Limits(8, 8, 8, 2).of_encoder(8)).build()
    check_barriers(program)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_tensor_changes_the_vectors(name: str, open_model: Any, tmp_path: Path) -> None:
    recipe, changed = ENCODERS[name], tmp_path / "changed.gguf"
    base = open_model(write_arch_model(tmp_path / "base.gguf", name)).embed(TOKENS)
    without_effect = set()
    for group in {group_of(spec.name) for spec in tensor_specs(recipe)}:
        write_arch_model(changed, name, changed=group)
        if np.array_equal(open_model(changed).embed(TOKENS), base):
            without_effect.add(group.removesuffix(".weight"))
    assert without_effect == set(recipe.unused.split()) - set(keys_of(recipe))


@pytest.mark.parametrize("name", ENCODERS)
def test_every_key_changes_the_vectors_or_is_refused(
    name: str, open_model: Any, tmp_path: Path
) -> None:
    recipe = ENCODERS[name]
    base = open_model(write_arch_model(tmp_path / "base.gguf", name)).embed(TOKENS)
    without_effect = set()
    for key, value in keys_of(recipe).items():
        if (other := other_value(key, value)) is None:
            continue
        path = write_arch_model(tmp_path / "changed.gguf", name, keys={key: other})
        try:
            if np.array_equal(open_model(path).embed(TOKENS), base):
                without_effect.add(key)
        except UnsupportedGgufError as exc:  # by the key, or by a tensor that no longer fits it
            assert f"{recipe.arch}.{key}" in str(exc) or "tensor `" in str(exc)
    assert without_effect == set(recipe.unused.split()) & set(keys_of(recipe))


@pytest.mark.parametrize("name", ENCODERS)
def test_a_missing_tensor_is_refused_by_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    names = {spec.name for spec in tensor_specs(ENCODERS[name]) if ".1." in spec.name[:6]
             or not spec.name.startswith("blk.")}  # fmt: skip
    for gone in sorted(names):
        if gone.endswith(OPTIONAL):
            continue
        write_arch_model(path, name, tensors=partial(without, gone))
        with pytest.raises(UnsupportedGgufError) as caught:
            read_model(GgufFile.open(path))
        # what a model of another form would have instead, or what is of no use without it
        instead = (("attn_qkv", "attn_q"), ("norm.weight", "norm.bias"), ("gate", "up"),
                   ("norm_2.weight", "norm_2.bias"))  # fmt: skip
        names = (gone, *(gone.replace(*each) for each in instead))
        assert any(f"`{name}`" in str(caught.value) for name in names)


OPTIONAL = ("attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias", "ffn_up.bias",
            "ffn_down.bias", "token_types.weight", "attn_q_norm.bias", "attn_k_norm.bias",
            "attn_norm_2.bias")  # fmt: skip
"""Without these llama.cpp runs an encoder, too."""


def without(gone: str, specs: list[TensorSpec]) -> list[TensorSpec]:
    return [spec for spec in specs if spec.name != gone]


@pytest.mark.parametrize("extra", ["blk.1.ffn_gate.bias", "blk.0.attn_norm.weight", "output.weight",
                                   "blk.0.attn_k_norm.weight", "rope_freqs.weight"])  # fmt: skip
def test_an_extra_tensor_is_refused_by_name(extra: str, tmp_path: Path) -> None:
    spec = TensorSpec(extra, (64,), QuantType.F32)
    path = write_arch_model(tmp_path / "m.gguf", "bert", tensors=lambda specs: [*specs, spec])
    with pytest.raises(UnsupportedGgufError, match=f"`{extra}`"):
        read_model(GgufFile.open(path))


@pytest.mark.slow
@settings(max_examples=150)
@given(st.data())
def test_any_value_of_a_key_is_computed_with_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(ENCODERS)))
    known_keys = sorted({*GRAPH_HPARAMS, *keys_of(ENCODERS[name])} - {"vocab_size"})
    odd = data.draw(st.dictionaries(st.sampled_from(known_keys), st.sampled_from(ODD), min_size=1,
                                    max_size=2))  # fmt: skip
    path = tmp_path_factory.mktemp("model") / "model.gguf"
    try:
        write_arch_model(path, name, keys=odd)
    except (ValueError, ZeroDivisionError):
        reject()  # the shapes of tensors follow from the key
    with GgufFile.open(path) as file:
        try:
            config, weights = read_model(file)
            limits = Limits(40, 8, 8, 1).of_encoder(config.n_ctx_train)
            program = ProgramBuilder(config, weights, limits).build()
        except UnsupportedGgufError:
            return
        prove(program.steps, program.layout.blocks(), [file.data], program.bounds)


# -- what an encoder does not do -------------------------------------------------------------------


def test_a_text_is_no_longer_than_the_model_was_trained_on(open_model: Any, tmp_path: Path) -> None:
    path = write_arch_model(tmp_path / "m.gguf", "bert")  # of 256 positions
    model = open_model(path, n_ctx=4096)
    assert (model.n_ctx, model.n_batch) == (256, 256)
    assert model.embed([5] * 256).shape == (256, 64)
    with pytest.raises(ContextFullError, match="of 257 tokens: expected at most 256, as many"):
        model.embed([5] * 257)
    with pytest.raises(ContextFullError, match="expected at most 32, the context") as caught:
        open_model(path, n_ctx=32).embed([5] * 33)
    assert caught.value.hint == "open it with `-c 256`"


def test_no_text_is_generated(open_model: Any, tmp_path: Path) -> None:
    model = open_model(write_arch_model(tmp_path / "m.gguf", "bert"), n_slots=2)
    for compute in (
        lambda: model.forward(TOKENS, 0),
        lambda: model.decode([(0, 5, 0), (1, 5, 0)]),
        lambda: model.forward_parts([(0, [5, 6], 0, 1)]),
    ):
        with pytest.raises(UsageError, match="`bert` makes embeddings and generates no text"):
            compute()


def test_an_encoder_that_is_causal_is_refused(tmp_path: Path) -> None:
    path = write_arch_model(tmp_path / "m.gguf", "bert", keys={"attention.causal": True})
    with pytest.raises(UnsupportedGgufError, match="causal` is true, expected false"):
        read_model(GgufFile.open(path))
    path = write_arch_model(tmp_path / "m.gguf", "bert", keys={"attention.causal": None})
    with pytest.raises(UnsupportedGgufError, match=r"missing key `bert\.attention\.causal`"):
        read_model(GgufFile.open(path))


@pytest.mark.parametrize(
    ("name", "keys", "problem"),
    [
        ("gemma-embedding", {"dense_3_feat_in": 96}, "dense_3_feat_in`: expected 192, found 96"),
        ("gemma-embedding", {"dense_2_feat_out": 0}, "tensor `dense_2.weight` has shape"),
        ("gemma-embedding", {"dense_3_feat_out": 32}, "dense_3_feat_out`: expected 64, found 32"),
        ("modern-bert", {"hidden_activation": "relu"}, "hidden_activation` is `relu`, expected"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(
    name: str, keys: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    path = write_arch_model(tmp_path / "model.gguf", name, keys=keys)
    with pytest.raises(UnsupportedGgufError, match=problem):
        read_model(GgufFile.open(path))
