"""What runs here: every tensor and key of a file is computed with, or the file is refused."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.format import AnyTensor, Field, TensorInfo, TensorSpec
from gguf_hub.gguf.hparams import HyperParameters
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.runnable import (
    NEUTRAL,
    NUMBERS,
    SIZES,
    WITHOUT_EFFECT,
    find_graph_obstacles,
    join_obstacles,
)
from gguf_hub.gguf.types import QuantType
from gguf_hub.run.model.config import read_config, read_graph
from gguf_hub.run.model.rope import SCALINGS
from gguf_hub.run.model.warmup import kernels_of_file
from gguf_hub.run.model.weights import Weights, read_model
from tests.crafted import write_model
from tests.synth import TINY, metadata, tensors

T = QuantType
DENSE = replace(TINY, n_expert=0)
VARIANTS = [("split", TINY), ("merged", TINY), ("merged", DENSE)]
HEAD_DIM = TINY.n_embd // TINY.n_head

# what llama.cpp looks for in a `llama` beside what every one of them has, and its relatives' own
OPTIONAL = [
    *(f"{name}.bias" for name in (
        "attn_norm", "ffn_norm", "ffn_gate_inp", "exp_probs_b", "ffn_gate_exps", "ffn_up_exps",
        "ffn_down_exps",
    )),
    *(f"{name}.weight" for name in (
        "attn_q_norm", "attn_k_norm", "attn_sinks", "attn_rot_embd", "attn_sub_norm",
        "post_attention_norm", "post_ffw_norm", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp",
        "ffn_gate_inp_shexp", "rope_freqs", "ffn_sub_norm", "nextn.eh_proj", "layer_output_scale",
    )),
    *(f"{name}.{kind}" for kind in ("scale", "input_scale") for name in (
        "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down",
        "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps",
    )),
]  # fmt: skip
OPTIONAL_GLOBAL = [
    "output.bias", "output_norm.bias",
    "token_embd_norm.weight", "position_embd.weight", "token_types.weight", "cls.weight",
    "output.scale", "blk.2.attn_q.weight", "blk.0.attn_q.weight.lora_a", "mm.0.weight",
]  # fmt: skip

# every key of LLM_KV_NAMES in llama.cpp, after the architecture's name, with a telling value
KEYS: dict[str, Any] = {
    **dict.fromkeys(SIZES, 7),
    **dict.fromkeys(NUMBERS, 1.25),
    "vocab_size": 99, "tensor_data_layout": "Meta AI original pth", "pooling_type": 1,
    "classifier.output_labels": ["yes", "no"], "classifier.pooling_type": 1,
    "rope.scaling.finetuned": True,
    "rope.scaling.type": "magic", "rope.scaling.alpha": 1000.0,
    "rope.scaling.yarn_log_multiplier": 0.1, "rope.dimension_sections": np.arange(4, dtype="i4"),
    "rope.dimension_count_swa": 8, "rope.freq_base_swa": 1e4,
    "features_length": 5, "embedding_length_out": 32, "embedding_length_per_layer_input": 8,
    "leading_dense_block_count": 1, "expert_feed_forward_length": 5,
    "expert_shared_feed_forward_length": 5, "expert_chunk_feed_forward_length": 5,
    "swiglu_clamp_exp": np.ones(2, "f4"), "swiglu_clamp_shexp": np.ones(2, "f4"),
    "use_parallel_residual": True, "expert_shared_count": 1, "expert_group_count": 2,
    "expert_group_used_count": 2, "expert_weights_scale": 2.5, "expert_weights_norm": False,
    "expert_gating_func": 2, "expert_group_scale": 2.0, "experts_per_group": 2,
    "moe_every_n_layers": 2, "moe_latent_size": 2, "nextn_predict_layers": 1,
    "n_deepstack_layers": 1, "deepstack_mapping": np.arange(2, dtype="i4"),
    "hidden_activation": "gelu", "logit_scale": 0.0625, "decoder_start_token_id": 1,
    "decoder_block_count": 1, "attn_logit_softcapping": 50.0, "router_logit_softcapping": 30.0,
    "final_logit_softcapping": 30.0, "swin_norm": True, "rescale_every_n_layers": 6,
    "time_mix_extra_dim": 8, "time_decay_extra_dim": 8, "residual_scale": 0.5,
    "embedding_scale": 12.0, "token_shift_count": 2, "interleave_moe_layer_step": 2,
    "full_attention_interval": 4,
    "attention.max_alibi_bias": 8.0, "attention.clamp_kqv": 8.0, "attention.value_length": 8,
    "attention.layer_norm_epsilon": 1e-5, "attention.group_norm_epsilon": 1e-5,
    "attention.group_norm_groups": 2, "attention.causal": False, "attention.q_lora_rank": 8,
    "attention.kv_lora_rank": 8, "attention.relative_buckets_count": 8,
    "attention.sliding_window": 4096, "attention.sliding_window_pattern": np.ones(2, bool),
    "attention.scale": 0.015625, "attention.output_scale": 0.5, "attention.value_scale": 0.5,
    "attention.temperature_length": 8, "attention.temperature_scale": 0.1,
    "attention.key_length_mla": 8, "attention.value_length_mla": 8, "attention.key_length_swa": 8,
    "attention.value_length_swa": 8, "attention.indexer.head_count": 8,
    "attention.shared_kv_layers": 1, "attention.recurrent_layers": np.ones(2, bool),
    "ssm.conv_kernel": 4, "ssm.state_size": 8, "wkv.head_size": 8, "shortconv.l_cache": 3,
    "hash_layer_count": 1, "hyper_connection.count": 2, "a_key_of_2031": 1,
}  # fmt: skip
OF_NO_TENSOR = {"context_length", "expert_used_count", "rope.dimension_count",
                "rope.scaling.original_context_length"}  # fmt: skip
READ = {*SIZES, *NUMBERS, "rope.scaling.type"}


def infos(specs: list[TensorSpec]) -> dict[str, AnyTensor]:
    return {spec.name: TensorInfo(spec.name, spec.shape, spec.type, 0, 0) for spec in specs}


def obstacles(
    fields: dict[str, Any] | None = None, specs: list[TensorSpec] | None = None
) -> tuple[str, ...]:
    more = {key: Field.of(value) for key, value in (fields or {}).items()}
    found = tensors(TINY, "merged", "F32") if specs is None else specs
    return find_graph_obstacles({**metadata(TINY), **more}, infos(found))


@pytest.mark.parametrize(("layout", "shape"), VARIANTS)
def test_our_own_models_run(layout: str, shape: Any) -> None:
    found = find_graph_obstacles(metadata(shape), infos(tensors(shape, layout, "F32")))
    assert found == ()


@pytest.mark.parametrize("name", [*(f"blk.1.{name}" for name in OPTIONAL), *OPTIONAL_GLOBAL])
@pytest.mark.parametrize("layout", ["split", "merged"])
def test_a_tensor_that_nothing_computes_with_is_named(layout: str, name: str) -> None:
    specs = [*tensors(TINY, layout, "F32"), TensorSpec(name, (TINY.n_embd,), T.F32)]
    assert obstacles(specs=specs) == (f"unused tensor `{name}`",)


BIASES = {"attn_q": TINY.n_embd, "attn_output": TINY.n_embd, "attn_qkv": 2 * TINY.n_embd}


@pytest.mark.parametrize("name", BIASES)
def test_a_bias_is_computed_with_or_of_the_wrong_length(name: str) -> None:
    bias = TensorSpec(f"blk.1.{name}.bias", (BIASES[name],), T.F32)
    specs = tensors(TINY, "merged", "F32")
    assert obstacles(specs=[*specs, bias]) == ()
    (found,) = obstacles(specs=[*specs, replace(bias, shape=(BIASES[name] + 1,))])
    assert f"tensor `{bias.name}` has shape" in found


def test_tensors_that_differ_in_numbers_alone_are_named_once() -> None:
    specs = tensors(TINY, "merged", "F32")
    for i in range(TINY.n_layer):
        specs += [TensorSpec(f"blk.{i}.attn_{p}_norm.bias", (TINY.n_embd,), T.F32) for p in "qk"]
    assert obstacles(specs=specs) == (
        "unused tensor `blk.0.attn_q_norm.bias` (and 1 like it)",
        "unused tensor `blk.0.attn_k_norm.bias` (and 1 like it)",
    )


@pytest.mark.parametrize("name", sorted(KEYS))
def test_a_key_is_read_or_changes_nothing_or_is_named(name: str) -> None:
    found = obstacles({f"llama.{name}": KEYS[name]})
    if name in WITHOUT_EFFECT or name in NUMBERS or name in OF_NO_TENSOR:
        assert found == ()
    elif name in SIZES:
        assert any("shape" in text or "missing" in text for text in found), found
    else:
        assert len(found) == 1
        assert f"key `llama.{name}`" in found[0]


@pytest.mark.parametrize("name", sorted(NEUTRAL))
def test_the_value_with_which_a_key_changes_nothing_is_taken(name: str) -> None:
    for value in NEUTRAL[name]:
        assert obstacles({f"llama.{name}": value}) == ()
    for value in ("squirrel", -3.5, np.array([1, 2], np.int32), ["a"], math.nan):
        (found,) = obstacles({f"llama.{name}": value})
        assert found.startswith(f"key `llama.{name}` is ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attention.value_length", HEAD_DIM),
        ("attention.key_length", HEAD_DIM),
        ("attention.scale", 0.0),
        ("attention.scale", float(np.float32(1 / math.sqrt(HEAD_DIM)))),
        ("expert_feed_forward_length", TINY.n_ff),
        ("embedding_length_out", TINY.n_embd),
    ],
)
def test_a_key_that_says_what_others_say_is_taken(name: str, value: float) -> None:
    assert obstacles({f"llama.{name}": value}) == ()


@pytest.mark.parametrize(
    "name", ["attention.head_count_kv", "attention.head_count", "feed_forward_length"]
)
@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.uint64])
def test_a_number_may_be_repeated_for_each_layer(name: str, dtype: Any) -> None:
    number = {"attention.head_count_kv": 2, "attention.head_count": 4}.get(name, TINY.n_ff)
    assert obstacles({f"llama.{name}": np.array([number] * TINY.n_layer, dtype)}) == ()
    (obstacle,) = obstacles({f"llama.{name}": np.array([number] * 3, dtype)})
    assert "expected one number for each of 2 layers, found 3" in obstacle
    assert obstacles({f"llama.{name}": np.array([number, number + 1], dtype)})


@pytest.mark.parametrize("value", ["7", True, np.array([7, 8], np.int32), ["7"], math.inf, -1, 0.5])
@pytest.mark.parametrize("name", sorted(SIZES))
def test_a_size_is_one_whole_number(name: str, value: Any) -> None:
    found = obstacles({f"llama.{name}": value})
    assert any(text.startswith(f"key `llama.{name}` is ") for text in found)


@pytest.mark.parametrize("name", ["rwkv7", "", ["llama"], np.array([1, 2], np.int32), 7])
def test_another_architecture_is_named_and_nothing_else(name: Any) -> None:
    shown = name if isinstance(name, str) else ""
    says = f"architecture `{shown}` is not one that runs here"
    assert obstacles({"general.architecture": name}) == (says,)


def test_a_model_of_no_tokens_does_not_run() -> None:
    fields = {k: v for k, v in metadata(TINY).items() if not k.startswith("tokenizer.")}
    specs = infos(tensors(TINY, "merged", "F32"))
    assert find_graph_obstacles(fields, specs) == ()
    found = find_graph_obstacles({**fields, "llama.vocab_size": Field.of(0)}, specs)
    assert found == ("key `llama.vocab_size` is 0, expected a number of tokens",)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"attention.layer_norm_rms_epsilon": -1.0}, "is -1, expected a finite number >= 0"),
        ({"attention.head_count": 65, "attention.head_count_kv": 65}, "an integer >= 1, found 0"),
    ],
    ids=["a negative epsilon", "heads of no width"],
)
def test_what_the_runner_would_refuse_is_an_obstacle(fields: dict[str, Any], says: str) -> None:
    (found,) = obstacles({f"llama.{name}": value for name, value in fields.items()})
    assert says in found


def test_only_keys_of_the_architecture_count() -> None:
    others = {"mistral.attention.sliding_window": 4096, "general.foo": 1, "tokenizer.ggml.x": 1,
              "quantize.imatrix.file": "x", "llamas.logit_scale": 2.0}  # fmt: skip
    assert obstacles(others) == ()


def test_long_lists_are_cut() -> None:
    text = join_obstacles([f"unknown key `llama.{i}`" for i in range(30)])
    assert text.endswith("`llama.7`; and 22 more")


def test_sizes_of_a_hostile_header_take_no_time() -> None:
    huge = {f"llama.{name}": 2**32 - 1 for name in ("block_count", "expert_count")}
    assert obstacles(huge, tensors(TINY, "split", "F32"))


# -- the runner agrees ---------------------------------------------------------------------------


class Asked(dict[str, Any]):
    """Metadata that notes which keys somebody looks for."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.keys_asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.keys_asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.keys_asked.add(key)
        return super().__getitem__(key)


def test_the_keys_that_are_read_are_those_that_the_runner_reads() -> None:
    asked = Asked({key: field.value for key, field in metadata(TINY).items()})
    read_config(read_graph(HyperParameters(asked)))
    assert {key[6:] for key in asked.keys_asked if key.startswith("llama.")} == READ
    assert NEUTRAL["rope.scaling.type"] == (*SCALINGS, "longrope")


def places(file: GgufFile, weights: Weights) -> set[int]:
    """Where in a file the matrices and vectors of its weights lie."""
    matrices = [weights.token_embd, weights.output]
    vectors = [*weights.vectors.values(), *weights.rope_factors.values()]
    for layer in weights.layers:
        matrices += layer.matrices.values()
        vectors += layer.vectors.values()
        for part in layer.experts.values():
            matrices += part.matrices
    start = file.data.__array_interface__["data"][0]
    at = {vector.__array_interface__["data"][0] - start for vector in vectors}
    return at | {matrix.offset for matrix in matrices}


@pytest.mark.parametrize(("layout", "shape"), VARIANTS)
@pytest.mark.parametrize("extra", ["", "rope_freqs.weight"])
def test_the_runner_uses_every_tensor_of_a_file_that_runs(
    tmp_path: Path, layout: str, shape: Any, extra: str
) -> None:
    add = [TensorSpec(extra, (HEAD_DIM // 2,), T.F32)] if extra else []
    file = GgufFile.open(write_model(tmp_path / "m.gguf", shape, layout=layout, add=add))
    weights = read_model(file)[1]
    starts = {file.data_offset + info.offset for info in file.tensors.values()}
    assert starts <= places(file, weights)
    assert bool(weights.rope_factors) == bool(extra)


CHANGES: dict[str, Any] = {
    "dropped": lambda spec: None,
    "renamed": lambda spec: replace(spec, name=f"{spec.name}x"),
    "of another length": lambda spec: replace(spec, shape=(*spec.shape[:-1], spec.shape[-1] + 1)),
    "of another rank": lambda spec: replace(spec, shape=(*spec.shape, 1)),
    "of integers": lambda spec: replace(spec, type=T.I8),
    "in BF16": lambda spec: replace(spec, type=T.BF16),
    "in F16": lambda spec: replace(spec, type=T.F16),
}


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_change_is_named_or_runs(tmp_path_factory: Any, data: st.DataObject) -> None:
    layout, shape = data.draw(st.sampled_from(VARIANTS))
    specs = tensors(shape, layout, "F32")
    chosen = data.draw(st.sampled_from(specs))
    change = data.draw(st.sampled_from(sorted(CHANGES)))
    changed = [CHANGES[change](s) if s is chosen else s for s in specs]
    found = find_graph_obstacles(metadata(shape), infos([s for s in changed if s]))
    if change in ("in BF16", "in F16"):
        assert found == ()
    elif change == "dropped" and chosen.name == "output.weight":
        assert found == ()  # the embeddings are the output, too
    elif "embd" in chosen.name and change == "of another length":
        assert "`output.weight`" in found[0]  # the embeddings tell how many tokens there are
    else:
        assert any(f"`{chosen.name}" in text for text in found), (change, chosen, found)
    path = tmp_path_factory.mktemp("changed") / "m.gguf"
    same = {spec.name: new for spec, new in zip(specs, changed, strict=True)}
    file = GgufFile.open(
        write_model(path, shape, layout=layout, change=lambda spec: same[spec.name])
    )
    if found:
        with pytest.raises(UnsupportedGgufError, match=re.escape(f"not runnable here: {found[0]}")):
            kernels_of_file(file)
    else:
        assert "run_program" in kernels_of_file(file)


@pytest.mark.parametrize("name", sorted(NUMBERS))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_named(name: str, value: float) -> None:
    (found,) = obstacles({f"llama.{name}": value})
    assert f"`llama.{name}` is {value}, expected a finite number" in found
