"""Reading a model's sizes from metadata, and the angles of its position embedding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.hparams import HyperParameters
from gguf_hub.run.model.config import ModelConfig, read_config, read_graph
from gguf_hub.run.model.rope import RopeConfig

MIXTRAL: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "mixtral",
    "llama.vocab_size": 32000,
    "llama.context_length": 32768,
    "llama.embedding_length": 4096,
    "llama.block_count": 32,
    "llama.feed_forward_length": 14336,
    "llama.rope.dimension_count": 128,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8,
    "llama.expert_count": 8,
    "llama.expert_used_count": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 1e6,
}


def read(metadata: dict[str, Any]) -> ModelConfig:
    return read_config(read_graph(HyperParameters(metadata)))


def test_the_sizes_of_mixtral() -> None:
    config = read(MIXTRAL)
    assert (config.n_head_kv, config.head_dim, config.n_ff) == (8, 128, 14336)
    assert (config.n_expert, config.n_expert_used) == (8, 2)
    assert config.rope == RopeConfig(n_rot=128, freq_base=1e6, n_ctx_orig=32768)


def test_what_old_files_leave_out_has_the_defaults_of_llama() -> None:
    left_out = {"llama.attention.head_count_kv", "llama.rope.freq_base", "llama.expert_count",
                "llama.expert_used_count", "llama.rope.dimension_count"}  # fmt: skip
    config = read({k: v for k, v in MIXTRAL.items() if k not in left_out})
    assert (config.n_head_kv, config.n_expert, config.rope.n_rot) == (32, 0, 128)
    assert config.rope.freq_base == 10000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "rwkv7"}, "architecture `rwkv7` is not one that runs here"),
        ({"llama.block_count": None}, "metadata has no `llama.block_count`"),
        ({"llama.block_count": 0}, "expected an integer >= 1, found 0"),
        ({"llama.block_count": "many"}, "expected an integer >= 1, found 'many'"),
        ({"llama.attention.head_count_kv": 7}, "32 heads cannot share 7 key/value heads"),
        ({"llama.rope.dimension_count": 127}, "expected an even number up to the head's 128"),
        ({"llama.rope.dimension_count": 256}, "expected an even number up to the head's 128"),
        ({"llama.expert_used_count": 9}, "9 of 8 experts used"),
        ({"llama.expert_used_count": 0}, "0 of 8 experts used"),
        ({"llama.rope.freq_base": 1.0}, "`llama.rope.freq_base`: expected one finite number > 1"),
        ({"llama.rope.scaling.factor": -4.0}, "rope.scaling.factor -4.0: expected more than 0"),
        ({"llama.rope.scaling.type": "magic"}, "none, linear, yarn or longrope, found 'magic'"),
        ({"general.architecture": np.array([1, 2])}, "`general.architecture`: expected a text"),
        ({"llama.rope.scaling.type": np.array([])}, "`llama.rope.scaling.type`: expected a text"),
        ({"llama.context_length": math.nan}, "`llama.context_length`: expected an integer >= 1"),
        ({"llama.block_count": 2**64 - 1}, "`llama.block_count`: expected an integer in [1, 4294"),
        (
            {"llama.attention.head_count": np.array([8, 8])},
            "one number for each of 32 layers, found 2",
        ),
        ({"llama.rope.dimension_count": math.inf}, "expected an integer >= 1, found inf"),
        ({"llama.attention.layer_norm_rms_epsilon": -1.0}, "expected one finite number >= 0"),
        ({"llama.rope.scaling.yarn_beta_fast": 0.0}, "expected one finite number > 0, found 0.0"),
        ({"llama.rope.scaling.yarn_beta_slow": -1.0}, "expected one finite number > 0, found -1"),
        ({"llama.rope.scaling.yarn_ext_factor": math.nan}, "expected one finite number, found nan"),
        ({"llama.rope.scaling.attn_factor": math.inf}, "expected one finite number, found inf"),
    ],
)
def test_what_makes_no_sense_is_named(change: dict[str, Any], message: str) -> None:
    metadata = {k: v for k, v in (MIXTRAL | change).items() if v is not None}
    with pytest.raises(UnsupportedGgufError) as caught:
        read(metadata)
    assert message in caught.value.message


def test_linear_scaling_divides_every_frequency() -> None:
    config = read(MIXTRAL | {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0})
    plain = RopeConfig(n_rot=128, freq_base=1e6)
    assert config.rope.frequencies() == pytest.approx([f / 4 for f in plain.frequencies()])


def test_the_old_key_for_linear_scaling_is_read_too() -> None:
    config = read(MIXTRAL | {"llama.rope.scale_linear": 2.0})
    assert (config.rope.scaling, config.rope.factor) == ("linear", 2.0)


def test_a_factor_without_a_type_is_linear() -> None:
    config = read(MIXTRAL | {"llama.rope.scaling.factor": 4.0})
    assert (config.rope.scaling, config.rope.scale) == ("linear", 4.0)
    none = read(MIXTRAL | {"llama.rope.scaling.factor": 4.0, "llama.rope.scaling.type": "none"})
    assert none.rope.scale == 1.0


def test_a_models_own_settings_of_yarn_are_read() -> None:
    keys = {
        "attn_factor": 1.5, "yarn_attn_factor": 1.25, "yarn_ext_factor": 0.5,
        "yarn_beta_fast": 16.0, "yarn_beta_slow": 2.0, "original_context_length": 4096,
    }  # fmt: skip
    config = read(MIXTRAL | {f"llama.rope.scaling.{name}": value for name, value in keys.items()})
    assert config.rope == RopeConfig(
        n_rot=128, freq_base=1e6, n_ctx_orig=4096, attn_factor=1.5, yarn_attn_factor=1.25,
        ext_factor=0.5, beta_fast=16.0, beta_slow=2.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("n_group", "n_group_used", "problem"),
    [
        (3, 2, "expert_group_count: 8 experts do not divide among 3 groups"),
        (4, 5, "expert_group_used_count: 5 of 4 groups used"),
        (8, 1, "expert_group_used_count: 1 groups of 1 experts, of which 2 are used"),
    ],
)
def test_groups_of_experts_that_cannot_be_are_refused(
    n_group: int, n_group_used: int, problem: str
) -> None:
    groups = {"expert_group_count": n_group, "expert_group_used_count": n_group_used}
    own = {f"bailingmoe2.{key}": value for key, value in groups.items()}
    mixtral = {key.replace("llama.", "bailingmoe2."): value for key, value in MIXTRAL.items()}
    mixtral |= {"general.architecture": "bailingmoe2"}
    with pytest.raises(UnsupportedGgufError, match=problem):
        read({**mixtral, **own})


@pytest.mark.parametrize(
    ("n_layer", "n_vocab", "stated", "function"),
    [
        (47, 154880, {}, "sigmoid"),
        (48, 154880, {}, "sigmoid"),  # with what predicts further tokens
        (46, 154880, {}, "softmax"),
        (47, 102400, {}, "softmax"),
        (47, 154880, {"expert_gating_func": 1}, "softmax"),
    ],
)
def test_glm_4_7_flash_has_a_sigmoid_that_no_key_tells(
    n_layer: int, n_vocab: int, stated: dict[str, int], function: str
) -> None:
    own = {"block_count": n_layer, "vocab_size": n_vocab, "attention.kv_lora_rank": 512,
           "attention.key_length": 576, "attention.value_length": 512,
           "attention.key_length_mla": 256, "attention.value_length_mla": 256,
           "attention.head_count_kv": 1, "rope.dimension_count": 64,
           "expert_feed_forward_length": 1536, **stated}  # fmt: skip
    metadata = {key.replace("llama.", "deepseek2."): value for key, value in MIXTRAL.items()}
    metadata |= {f"deepseek2.{key}": value for key, value in own.items()}
    config = read({**metadata, "general.architecture": "deepseek2"})
    assert config.router.function == function
