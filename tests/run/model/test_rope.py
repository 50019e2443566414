"""Angles of the position embedding against their definition, and what callers change of them."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from gguf_hub.errors import UsageError
from gguf_hub.run.model.rope import AS_TRAINED, RopeChange, RopeConfig

MISTRAL = RopeConfig(n_rot=128, freq_base=10000.0, n_ctx_orig=4096)


def angles(rope: RopeConfig, position: int) -> list[tuple[float, float]]:
    """Return (angle, magnitude) of each pair, as rope_yarn computes them one by one."""
    freq_scale = 1.0 if rope.scaling == "none" else 1.0 / rope.factor
    ext = rope.ext_factor if rope.ext_factor >= 0 else float(rope.scaling == "yarn")
    found = []
    for pair in range(rope.n_rot // 2):
        plain = position * rope.freq_base ** (-2.0 * pair / rope.n_rot)
        theta, magnitude = freq_scale * plain, rope.attn_factor * rope.yarn_attn_factor
        if ext:
            start, end = (
                rope.n_rot * math.log(rope.n_ctx_orig / (turns * 2 * math.pi))
                / (2 * math.log(rope.freq_base))
                for turns in (rope.beta_fast, rope.beta_slow)
            )  # fmt: skip
            start, end = max(0, math.floor(start)), min(rope.n_rot - 1, math.ceil(end))
            ramp = (pair - start) / max(0.001, end - start)
            share = (1 - min(1.0, max(0.0, ramp))) * ext
            theta = theta * (1 - share) + plain * share
            magnitude = rope.attn_factor * (1 + 0.1 * max(0.0, math.log(1 / freq_scale)))
        found.append((theta, magnitude))
    return found


@pytest.mark.parametrize("position", [0, 1, 4095, 100_000])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rope_scaling": "none", "rope_scale": 4.0},
        {"rope_scaling": "linear", "rope_scale": 4.0},
        {"rope_freq_scale": 0.25},
        {"rope_freq_base": 5e5},
        {"rope_scaling": "yarn", "rope_scale": 8.0},
        {"rope_scaling": "yarn", "rope_scale": 8.0, "yarn_orig_ctx": 512},
        # where the ramp would begin before the first pair, or end behind the last dimension
        {"rope_scaling": "yarn", "rope_scale": 8.0, "yarn_orig_ctx": 100},
        {"rope_scaling": "yarn", "rope_scale": 8.0, "rope_freq_base": 25.0},
        {"rope_scaling": "yarn", "rope_scale": 8.0, "yarn_ext_factor": 0.0},
        {"rope_scaling": "yarn", "rope_scale": 8.0, "yarn_ext_factor": 0.5},
        {"rope_scaling": "yarn", "rope_scale": 8.0, "yarn_ext_factor": 1.0},
        {"rope_scaling": "yarn", "rope_scale": 0.5},
        {"rope_scaling": "linear", "rope_scale": 8.0, "yarn_ext_factor": 0.5},
        {"rope_scaling": "yarn", "rope_scale": 8.0, "yarn_attn_factor": 1.3},
        {"rope_scale": 8.0, "yarn_ext_factor": 0.0, "yarn_attn_factor": 1.3},
        {"rope_scaling": "yarn", "rope_scale": 8.0, "yarn_beta_fast": 8.0, "yarn_beta_slow": 0.5},
    ],
    ids=str,
)
def test_angles_are_those_of_the_definition(options: dict[str, Any], position: int) -> None:
    rope = MISTRAL.with_changes(RopeChange.from_options(**options))
    expected = np.array(angles(rope, position))
    assert np.array(rope.frequencies()) * position == pytest.approx(expected[:, 0], rel=1e-12)
    assert rope.magnitude() == pytest.approx(expected[0, 1], rel=1e-12)


def test_plain_frequencies_fall_from_one_to_one_over_the_base() -> None:
    rope = RopeConfig(n_rot=4, freq_base=100.0)
    assert rope.frequencies() == pytest.approx([1.0, 0.1])
    assert rope.magnitude() == 1.0


def test_yarn_keeps_fast_pairs_and_interpolates_slow_ones() -> None:
    rope = replace(MISTRAL, scaling="yarn", factor=8.0)
    shares = [f / p for f, p in zip(rope.frequencies(), MISTRAL.frequencies(), strict=True)]
    # pair 0 turns 4096 / 2 pi = 652 times within the original context, far above 32
    assert shares[0] == 1.0
    assert shares[-1] == pytest.approx(1 / 8)
    assert all(a >= b for a, b in pairwise(shares))
    # by hand: 32 turns fall on pair 64 ln(4096 / (32 * 2 pi)) / ln 10000 = 20.9, so up to 20
    assert [i for i, share in enumerate(shares) if share == 1.0] == list(range(21))
    assert rope.magnitude() == pytest.approx(1 + 0.1 * math.log(8))


def test_yarns_ramp_ends_at_the_last_dimension_at_most() -> None:
    rope = RopeConfig(n_rot=128, freq_base=10.0, n_ctx_orig=2**30, scaling="yarn", factor=8.0)
    rope = replace(rope, beta_fast=2.0**27)
    plain = replace(rope, scaling="none").frequencies()
    shares = [f / p for f, p in zip(rope.frequencies(), plain, strict=True)]
    # by hand: 2^27 turns fall on pair 64 ln(2^30 / (2^27 * 2 pi)) / ln 10 = 6.7, and one turn on
    # pair 526, far behind the 128 dimensions that are rotated: from 6 to 127
    kept = [1 - (pair - 6) / (127 - 6) for pair in range(6, 64)]
    assert shares[:6] == [1.0] * 6
    assert shares[6:] == pytest.approx([share + (1 - share) / 8 for share in kept])


def test_what_is_not_said_stays_the_models_own() -> None:
    rope = replace(MISTRAL, scaling="yarn", factor=8.0, beta_fast=16.0, attn_factor=1.1)
    assert rope.with_changes(AS_TRAINED) == rope
    assert rope.with_changes(RopeChange.from_options()) == rope
    assert rope.with_changes(RopeChange.from_options(rope_scale=2.0)) == replace(rope, factor=2.0)
    # no scaling, no stretch, whatever the factor
    assert rope.with_changes(RopeChange.from_options(rope_scaling="none")).scale == 1.0


def test_a_scale_and_its_inverse_are_the_same() -> None:
    assert RopeChange.from_options(rope_scale=4.0) == RopeChange.from_options(rope_freq_scale=0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rope_scaling": "ntk"}, "rope_scaling: expected none, linear, yarn, found `ntk`"),
        ({"rope_scale": 0.0}, "rope_scale: expected (0, 1e+12], found 0.0"),
        ({"rope_scale": -2.0}, "rope_scale: expected (0, 1e+12], found -2.0"),
        ({"rope_scale": math.nan}, "rope_scale: expected (0, 1e+12], found nan"),
        ({"rope_scale": 2.0, "rope_freq_scale": 0.5}, "one is 1 / the other"),
        ({"rope_freq_scale": -1.0}, "rope_freq_scale: expected (1e-12, 1e+12] or 0 (the model's)"),
        ({"rope_freq_scale": 1e-320}, "rope_freq_scale: expected (1e-12, 1e+12]"),
        ({"rope_freq_base": 1.0}, "rope_freq_base: expected (1, 1e+12] or 0 (the model's)"),
        ({"rope_freq_base": math.inf}, "rope_freq_base: expected (1, 1e+12]"),
        ({"yarn_orig_ctx": -1}, "yarn_orig_ctx: expected (0, 1e+12] or 0 (the model's), found -1"),
        ({"yarn_ext_factor": 1.5}, "yarn_ext_factor: expected [0, 1] or -1 (the model's)"),
        ({"yarn_attn_factor": math.nan}, "yarn_attn_factor: expected [0, 100] or -1"),
        ({"yarn_beta_fast": 0.0}, "yarn_beta_fast: expected (0, 1e+12] or -1 (the model's)"),
    ],
    ids=str,
)
def test_values_that_cannot_be_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        RopeChange.from_options(**options)
    assert message in caught.value.message


@pytest.mark.parametrize("beta", [5e-324, 1e12])
def test_the_ends_of_the_intervals_give_numbers(beta: float) -> None:
    change = RopeChange.from_options(
        rope_scaling="yarn", rope_scale=1e12, yarn_beta_fast=beta, yarn_beta_slow=beta,
        rope_freq_base=1 + 1e-9,
    )  # fmt: skip
    rope = MISTRAL.with_changes(change)
    assert all(map(math.isfinite, [*rope.frequencies(), rope.magnitude()]))
