"""Reading a model's sizes from metadata, and the angles of its position embedding."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.model.config import RopeConfig, read_config

MIXTRAL: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "mixtral",
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


def test_the_sizes_of_mixtral() -> None:
    config = read_config(MIXTRAL, 32000)
    assert (config.n_embd_kv, config.head_dim, config.n_ff) == (1024, 128, 14336)
    assert (config.n_expert, config.n_expert_used) == (8, 2)
    assert config.rope == RopeConfig(n_rot=128, freq_base=1e6, n_ctx_orig=32768)


def test_what_old_files_leave_out_has_the_defaults_of_llama() -> None:
    left_out = {"llama.attention.head_count_kv", "llama.rope.freq_base", "llama.expert_count",
                "llama.expert_used_count", "llama.rope.dimension_count"}  # fmt: skip
    config = read_config({k: v for k, v in MIXTRAL.items() if k not in left_out}, 32000)
    assert (config.n_head_kv, config.n_expert, config.rope.n_rot) == (32, 0, 128)
    assert config.rope.freq_base == 10000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "mamba"}, "architecture `mamba` is not one that runs here"),
        ({"llama.block_count": None}, "metadata has no `llama.block_count`"),
        ({"llama.block_count": 0}, "expected an integer >= 1, found 0"),
        ({"llama.block_count": "many"}, "expected one number, found 'many'"),
        ({"llama.attention.head_count_kv": 7}, "32 heads cannot share 7 key/value heads"),
        ({"llama.rope.dimension_count": 127}, "expected an even number up to the head's 128"),
        ({"llama.rope.dimension_count": 256}, "expected an even number up to the head's 128"),
        ({"llama.expert_used_count": 9}, "9 of 8 experts used"),
        ({"llama.expert_used_count": 0}, "0 of 8 experts used"),
        ({"llama.rope.scaling.type": "magic"}, "expected none, linear or yarn, found `magic`"),
    ],
)
def test_what_makes_no_sense_is_named(change: dict[str, Any], message: str) -> None:
    metadata = {k: v for k, v in (MIXTRAL | change).items() if v is not None}
    with pytest.raises(UnsupportedGgufError) as caught:
        read_config(metadata, 32000)
    assert message in caught.value.message


def test_plain_frequencies_fall_from_one_to_one_over_the_base() -> None:
    rope = RopeConfig(n_rot=4, freq_base=100.0)
    assert rope.frequencies() == pytest.approx([1.0, 0.1])
    assert rope.magnitude() == 1.0


def test_linear_scaling_divides_every_frequency() -> None:
    config = read_config(
        MIXTRAL | {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, 32000
    )
    plain = RopeConfig(n_rot=128, freq_base=1e6)
    assert config.rope.frequencies() == pytest.approx([f / 4 for f in plain.frequencies()])


def test_the_old_key_for_linear_scaling_is_read_too() -> None:
    config = read_config(MIXTRAL | {"llama.rope.scale_linear": 2.0}, 32000)
    assert (config.rope.scaling, config.rope.factor) == ("linear", 2.0)


def test_yarn_keeps_fast_pairs_and_interpolates_slow_ones() -> None:
    rope = RopeConfig(n_rot=128, freq_base=10000.0, scaling="yarn", factor=8.0, n_ctx_orig=4096)
    plain = RopeConfig(n_rot=128, freq_base=10000.0).frequencies()
    shares = [f / p for f, p in zip(rope.frequencies(), plain, strict=True)]
    # pair 0 turns 4096 / 2 pi = 652 times within the original context, far above 32
    assert shares[0] == 1.0
    assert shares[-1] == pytest.approx(1 / 8)
    assert all(a >= b for a, b in pairwise(shares))
    # by hand: 32 turns fall on pair 64 ln(4096 / (32 * 2 pi)) / ln 10000 = 20.9, so up to 20
    assert [i for i, share in enumerate(shares) if share == 1.0] == list(range(21))
    assert rope.magnitude() == pytest.approx(1 + 0.1 * math.log(8))
