"""Samplers that draw together choose what each would choose alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gguf_hub.run.sampler import Sampler, SamplerConfig
from gguf_hub.run.sampler.rows import choose_rows, shared_settings
from tests.run.sampler.test_chain import Allow

OPTIONS: list[dict[str, Any]] = [
    {}, {"top_p": 0.5}, {"min_p": 0.3}, {"top_k": 3, "temp": 1}, {"min_keep": 5, "top_p": 0.1},
    {"temp": 0}, {"top_k": 200, "top_p": 1.0, "min_p": 0}, {"top_k": 1}, {"temp": 1e-9},
    {"min_p": 0.9, "min_keep": 3, "top_p": 0.2, "temp": 5}, {"top_p": 0}, {"min_keep": 60},
    {"samplers": "top_k;temperature"},
]  # fmt: skip


def samplers(n: int, **options: Any) -> list[Sampler]:
    return [Sampler(SamplerConfig.from_options(seed=seed, **options)) for seed in range(n)]


def logits_of(n_rows: int, n_vocab: int, kind: str) -> np.ndarray:
    rng = np.random.default_rng([n_rows, n_vocab])
    logits = rng.standard_normal((n_rows, n_vocab)).astype(np.float32) * 4
    if kind == "ties":
        logits = np.round(logits)
    if kind == "banned":
        logits[:, ::2] = -np.inf
    return logits


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", ["plain", "ties", "banned"])
@pytest.mark.parametrize("n_vocab", [5, 130, 1280, 33000])
def test_together_and_alone_are_the_same(n_vocab: int, kind: str, options: dict[str, Any]) -> None:
    logits = logits_of(9, n_vocab, kind)
    together, alone = samplers(9, **options), samplers(9, **options)
    settings = shared_settings(together[0])
    assert settings is not None and settings == shared_settings(together[1])
    for _ in range(3):  # random numbers go on alike
        expected = [each.choose(row) for each, row in zip(alone, logits, strict=True)]
        assert choose_rows(together, settings, logits) == expected


@pytest.mark.parametrize("options", [{}, {"temp": 0}], ids=["random", "greedy"])
def test_rows_that_are_no_numbers_have_no_token(options: dict[str, Any]) -> None:
    logits = logits_of(6, 100, "plain")
    logits[1, 3], logits[2, 99], logits[4] = np.nan, np.inf, -np.inf
    own = samplers(6, **options)
    settings = shared_settings(own[0])
    assert settings is not None
    found = choose_rows(own, settings, logits)
    assert [token is None for token in found] == [False, True, True, False, True, False]


@pytest.mark.parametrize(
    "options",
    [{"top_k": 0}, {"top_k": 257}, {"repeat_penalty": 1.1}, {"mirostat": 2}, {"xtc_probability": 1},
     {"typical_p": 0.9}, {"dynatemp_range": 0.2}, {"logit_bias": {3: 1.0}}, {"top_n_sigma": 1},
     {"samplers": "temperature;top_k"}, {"temp": 0, "presence_penalty": 1}],
    ids=str,
)  # fmt: skip
def test_other_settings_draw_alone(options: dict[str, Any]) -> None:
    (sampler,) = samplers(1, **options)
    assert shared_settings(sampler) is None


def test_a_text_with_a_grammar_draws_alone() -> None:
    assert shared_settings(Sampler(SamplerConfig(), constraint=Allow(True, False))) is None
