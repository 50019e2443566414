"""Guesses from the text so far: what they are, and that they never change what is generated."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.generation.engine import Engine
from gguf_hub.run.generation.lookup import PromptLookup
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.sampler import Sampler, SamplerConfig
from gguf_hub.run.tokenizer import load_tokenizer


@pytest.mark.parametrize(
    ("tokens", "guess"),
    [
        ([1, 2, 3, 9, 1, 2, 3], [9, 1, 2]),
        ([7, 8, 5, 7, 8, 6, 7, 8], [6, 7, 8]),  # the latest
        ([1, 2, 3, 4, 5, 0, 3, 4, 6, 2, 3, 4], [5, 0, 3]),  # the longest
        ([1, 2, 3, 9, 3], []),  # one token says nothing
        ([4, 4, 4, 4], [4]),
        ([1, 256, 65536, 1, 5], []),  # bytes of two neighbours are no token
        ([3], []),
        ([], []),
    ],
)
def test_what_followed_before_is_guessed(tokens: list[int], guess: list[int]) -> None:
    assert PromptLookup(3).draft(tokens) == guess


@pytest.mark.parametrize("config", [{"temp": 0}, {"temp": 0.8, "seed": 3, "repeat_penalty": 1.1}])
def test_the_text_is_the_same_with_guesses(config: dict, data: Path) -> None:
    path = data / "models" / "stories260K.f32.gguf"
    texts = []
    with GgufFile.open(path) as file:
        tokenizer = load_tokenizer(file.metadata)
        prompt = tokenizer.encode("Tim had a red ball. Tim had a red ball. Tim had")
        for n_draft in (0, 5):
            with Transformer.open(file, n_ctx=256, n_threads=1, n_logits=n_draft + 1) as model:
                engine, sampler = Engine(model), Sampler(SamplerConfig.from_options(**config))
                drafter = PromptLookup(n_draft) if n_draft else None
                found = engine.generate(prompt, sampler, max_tokens=100, drafter=drafter)
                texts.append([(each.token_id, each.logprob) for each in found])
    assert texts[0] == texts[1]
    assert engine.timings.n_accepted > 0
