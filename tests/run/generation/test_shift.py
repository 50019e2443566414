"""What a full context keeps, and that going on equals a fresh prompt of just that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.generation import ContextShift, Generation, GenerationRequest, LogitsSampler
from gguf_hub.run.generation.engine import Engine
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.sampler import Sampler, SamplerConfig
from gguf_hub.run.tokenizer import load_tokenizer


@pytest.mark.parametrize(
    ("prompt", "n_keep", "n_ctx", "expected"),
    [
        ([1, 5, 6, 7], 0, 32, 1),  # the begin token stays
        ([5, 6, 7], 0, 32, 0),
        ([1, 5, 6, 7], 2, 32, 3),
        ([1, 5, 6, 7], 3, 32, 4),
        ([1, 5, 6, 7], 99, 32, 4),  # no more than the prompt
        ([1, 5, 6, 7], -1, 32, 4),
        ([5, 6, 7], -1, 32, 3),
        ([1, *range(5, 30)], -1, 16, 12),  # as llama-server, four places are free
        ([1, 5], -1, 3, 0),
        ([], -1, 16, 0),
    ],
)
def test_what_is_kept_of_a_prompt(
    prompt: list[int], n_keep: int, n_ctx: int, expected: int
) -> None:
    assert ContextShift.after(prompt, n_keep, n_ctx, bos_id=1) == ContextShift(n_ctx, expected)


@pytest.mark.parametrize(
    ("n_tokens", "expected"),
    [
        (10, list(range(10))),
        (11, [0, 1, *range(6, 11)]),
        (14, [0, 1, *range(6, 14)]),
        (15, [0, 1, *range(10, 15)]),
        (100, [0, 1, *range(94, 100)]),
    ],
)
def test_half_of_the_rest_is_forgotten_each_time(n_tokens: int, expected: list[int]) -> None:
    assert ContextShift(n_ctx=10, n_keep=2).window(range(n_tokens)) == expected


@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 200))
def test_a_window_fits_begins_with_what_is_kept_and_ends_with_the_text(
    n_ctx: int, n_keep: int, n_tokens: int
) -> None:
    shift = ContextShift.after(range(n_keep), -1, n_ctx, bos_id=None)
    window = shift.window(range(n_tokens))
    assert len(window) <= n_ctx
    assert window[: shift.n_keep] == list(range(min(shift.n_keep, n_tokens)))
    assert window[-1:] == list(range(n_tokens))[-1:]
    # letting go step by step, as a text grows, comes to the same
    grown: list[int] = []
    for token in range(n_tokens):
        grown.append(token)
        if len(grown) > n_ctx:
            n_gone = max(1, (n_ctx - shift.n_keep) // 2)
            del grown[shift.n_keep : shift.n_keep + n_gone]
    assert grown == window


def test_after_a_shift_logits_are_those_of_a_fresh_prompt_to_the_bit(data: Path) -> None:
    path = data / "models" / "stories260K.f32.gguf"
    config = SamplerConfig.from_options(temp=0.8, seed=5)
    with GgufFile.open(path) as file:
        tokenizer = load_tokenizer(file.metadata)
        prompt = tokenizer.encode("Once upon a time, there was a dog.")
        shift = ContextShift.after(prompt, 3, 32, tokenizer.bos_id)
        seen: list[tuple[list[int], np.ndarray]] = []

        def note(ids: np.ndarray, logits: np.ndarray) -> bool:
            seen.append((shift.window(ids[:-1].tolist()), logits))
            return False

        sampler = LogitsSampler(Sampler(config, tokenizer))
        request = GenerationRequest(tuple(prompt), sampler, max_tokens=100, criteria=(note,))
        generation = Generation(request, tokenizer, 32, shift=shift)
        with Transformer.open(file, ModelSettings(n_ctx=32, n_batch=8, n_threads=1)) as model:
            engine = Engine(model)
            for _ in engine.stream(generation):
                pass
            assert (generation.n_generated, generation.finish_reason, generation.n_shifts) == (
                100,
                "length",
                6,
            )
            for window, logits in seen:
                engine.reset()
                assert np.array_equal(engine.prefill(window), logits)


@pytest.mark.parametrize(
    ("max_tokens", "shifts", "expected"),
    [(-1, False, 7), (5, False, 5), (50, False, 7), (-2, True, 7), (50, True, 50), (5, True, 5)],
)
def test_how_long_a_text_may_be(max_tokens: int, shifts: bool, expected: int, data: Path) -> None:
    with GgufFile.open(data / "models" / "stories260K.f32.gguf") as file:
        tokenizer = load_tokenizer(file.metadata)
    request = GenerationRequest((1, 400), LogitsSampler(Sampler(SamplerConfig(temp=0))), max_tokens)
    generation = Generation(request, tokenizer, 8, shift=ContextShift(8, 1) if shifts else None)
    logits = np.zeros(512, np.float32)
    logits[400] = 9
    while not generation.is_done:
        generation.take(logits)
    assert (generation.n_generated, generation.finish_reason) == (expected, "length")


def test_without_a_limit_it_goes_on(data: Path) -> None:
    with GgufFile.open(data / "models" / "stories260K.f32.gguf") as file:
        tokenizer = load_tokenizer(file.metadata)
    request = GenerationRequest((1, 400), LogitsSampler(Sampler(SamplerConfig(temp=0))), -1)
    generation = Generation(request, tokenizer, 8, shift=ContextShift(8, 1))
    logits = np.zeros(512, np.float32)
    logits[400] = 9
    for _ in range(100):
        generation.take(logits)
        assert len(generation.window) <= 8
    assert not generation.is_done
