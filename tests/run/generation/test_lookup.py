"""Drafts from the text so far: what they are, and that they never change what is generated."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguf_hub.run.generation import Generation, GenerationRequest, LogitsSampler
from gguf_hub.run.generation.lookup import PromptLookup
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.opening import open_model
from gguf_hub.run.sampler import Sampler, SamplerConfig


@pytest.mark.parametrize(
    ("tokens", "draft"),
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
def test_what_followed_before_is_drafted(tokens: list[int], draft: list[int]) -> None:
    assert PromptLookup(3).following(tokens, 3) == draft


@pytest.mark.parametrize("config", [{"temp": 0}, {"temp": 0.8, "seed": 3, "repeat_penalty": 1.1}])
def test_the_text_is_the_same_with_drafts(config: dict, data: Path) -> None:
    path = data / "models" / "stories260K.f32.gguf"
    texts = []
    for drafter in (None, PromptLookup(5, n_min=5)):
        with open_model(path, ModelSettings(n_ctx=256), drafter=drafter) as loaded:
            engine, tokenizer = loaded.engine(), loaded.tokenizer
            prompt = tokenizer.encode("Tim had a red ball. Tim had a red ball. Tim had")
            sampler = LogitsSampler(Sampler(SamplerConfig.from_options(**config)), n_top=1)
            request = GenerationRequest(tuple(prompt), sampler, max_tokens=100)
            text = Generation(request, tokenizer, 256)
            logprobs = [token for delta in engine.stream(text) for token in delta.logprobs]
            texts.append([(token.token_id, token.logprob) for token in logprobs])
    assert len(texts[0]) == 100
    assert texts[0] == texts[1]
    assert text.timings.n_accepted > 0
