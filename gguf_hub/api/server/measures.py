"""What an answer has cost, and its settings: OpenAI's names of tokens, llama-server's else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

from gguf_hub.api.server.slots import PromptProgress
from gguf_hub.run.generation import Generation, TextDelta
from gguf_hub.run.generation.answers import Answer, usage


def usage_of(generations: Sequence[Generation], n_choices: int = 1) -> Answer:
    """Return the tokens of a request; each prompt counts once, however many texts follow it.

    Args:
        generations: All texts of a prompt stand together.
        n_choices: Texts of each prompt.
    """
    firsts = generations[::n_choices]
    n_prompt = sum(len(generation.request.prompt) for generation in firsts)
    n_cached = sum(generation.timings.n_cached for generation in firsts)
    n_generated = sum(generation.n_generated for generation in generations)
    return {**usage(n_prompt, n_generated), "prompt_tokens_details": {"cached_tokens": n_cached}}


def timings_of(generation: Generation) -> Answer:
    """Return the tokens and the milliseconds of one text."""
    timings, n_generated = generation.timings, generation.n_generated
    drafts = {"draft_n": timings.n_drafted, "draft_n_accepted": timings.n_accepted}
    return {
        "cache_n": timings.n_cached,
        **_pace("prompt", timings.n_prompt, timings.prompt_s),
        **_pace("predicted", n_generated, timings.generate_s),
        **(drafts if timings.n_drafted else {}),
    }


def progress_of(delta: TextDelta) -> Answer:
    """Return the field that says how much of a prompt is computed, if a delta does."""
    if not isinstance(delta, PromptProgress):
        return {}
    return {"prompt_progress": {"total": delta.n_total, "cache": delta.n_cached,
                                "processed": delta.n_processed,
                                "time_ms": int(delta.seconds * 1000)}}  # fmt: skip


def sampling_of(generation: Generation) -> Answer:
    """Return the settings that a text is sampled with."""
    sampler = generation.request.sampler.sampler
    config, limit = asdict(sampler.config), generation.request.max_tokens
    biases = config.pop("logit_bias")
    return {
        "temperature": config.pop("temp"), **config, "seed": sampler.seed,
        # JSON has no infinity: false bans a token, as in requests
        "logit_bias": [{"token": token, "bias": False if math.isinf(bias) else bias}
                       for token, bias in biases.items()],
        "n_predict": limit, "max_tokens": limit,
    }  # fmt: skip


def _pace(name: str, n_tokens: int, seconds: float) -> Answer:
    return {
        f"{name}_n": n_tokens,
        f"{name}_ms": seconds * 1000,
        f"{name}_per_token_ms": seconds * 1000 / n_tokens if n_tokens else 0.0,
        f"{name}_per_second": n_tokens / seconds if seconds else 0.0,
    }
