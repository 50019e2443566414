"""Drafts of a second model: texts and their distribution are those of the model alone."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gguf_hub.errors import GgufError, UsageError
from gguf_hub.run.generation import Generation, GenerationRequest, LogitsSampler
from gguf_hub.run.generation.engine import Engine, Forward
from gguf_hub.run.generation.model_drafter import (
    DraftSettings,
    ModelDrafter,
    require_same_vocabulary,
)
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.opening import LoadedModel, open_model
from gguf_hub.run.sampler import Constraint, Sampler, SamplerConfig
from gguf_hub.run.tokenizer import SpmTokenizer, read_vocab
from tests.run.generation.numbers import NUMBERS

# -- the distribution ------------------------------------------------------------------------------

N_VOCAB, N_TOKENS = 5, 3
OFF: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temp": 1.0}


class Bigrams(Forward):
    """Knows how likely each token is after each other."""

    n_ctx, n_batch = 16, 16

    def __init__(self, table: NDArray[np.float32]) -> None:
        self._table = table

    def forward(
        self, tokens: Sequence[int], position: int, *, all_logits: bool = False, slot: int = 0
    ) -> NDArray[np.float32]:
        return self._table[list(tokens if all_logits else tokens[-1:])]


@dataclass
class NeverTwice(Constraint):
    """Allows every token but the last one, and 0 always."""

    last: int = -1

    def mask(self) -> NDArray[np.bool_]:
        allowed = np.arange(N_VOCAB) != self.last
        allowed[0] = True
        return allowed

    def accept(self, token_id: int) -> None:
        self.last = token_id

    def ahead(self) -> NeverTwice:
        return NeverTwice(self.last)


def tables() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return logits of a model and of one that drafts: alike, but not the same."""
    draw = np.random.default_rng(7)
    table = draw.normal(0, 1.2, (N_VOCAB, N_VOCAB))
    other = table + draw.normal(0, 1.2, table.shape)
    return table.astype(np.float32), other.astype(np.float32)


def endings(
    engine: Engine, n: int, config: dict[str, Any], constraint: type | None
) -> tuple[Counter[tuple[int, ...]], int]:
    """Return what ``n`` texts go on with, and how many drafted tokens were accepted."""
    sampler, found, accepted = Sampler(SamplerConfig(**config)), Counter(), 0
    for _ in range(n):
        if constraint:
            sampler._constraint = constraint()
        sampler._mu = 2 * sampler.config.mirostat_tau  # each text is the first one
        request = GenerationRequest((1, 2), LogitsSampler(sampler), N_TOKENS)
        text = Generation(request, NUMBERS, 16)
        while not text.is_done:
            engine.step(text)
        found[tuple(text.tokens[2:])] += 1
        accepted += text.timings.n_accepted
    return found, accepted


def chi_square(one: Counter[Any], other: Counter[Any]) -> float:
    """Return how far two samples of one size are from one distribution, in standard deviations."""
    keys = [key for key in one | other if one[key] + other[key] >= 10]
    value = sum((one[key] - other[key]) ** 2 / (one[key] + other[key]) for key in keys)
    degrees = len(keys) - 1
    # Wilson and Hilferty: the cube root is nearly normal
    return float(
        ((value / degrees) ** (1 / 3) - (1 - 2 / (9 * degrees))) * (9 * degrees / 2) ** 0.5
    )


CONFIGS: dict[str, tuple[dict[str, Any], type | None]] = {
    "plain": (OFF, None),
    "defaults": ({"temp": 0.8}, None),
    "penalties": ({**OFF, "repeat_penalty": 1.5, "presence_penalty": 0.7, "top_k": 4}, None),
    "dry": ({**OFF, "dry_multiplier": 1.5, "dry_allowed_length": 1,
             "dry_sequence_breakers": ()}, None),
    "xtc": ({**OFF, "xtc_probability": 0.5, "xtc_threshold": 0.15}, None),
    "mirostat": ({**OFF, "mirostat": 2, "mirostat_tau": 2.0, "mirostat_eta": 0.5}, None),
    "constraint": ({**OFF, "top_p": 0.9}, NeverTwice),
}  # fmt: skip


def drafting(p_min: float = 0.0, n: int = 2) -> Engine:
    table, other = tables()
    settings = DraftSettings(n_max=n, n_min=n, p_min=p_min)
    drafter = ModelDrafter(lambda slot: Engine(Bigrams(other)), (N_VOCAB, N_VOCAB), settings)
    return Engine(Bigrams(table), drafter=drafter)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_texts_are_distributed_as_those_of_the_model_alone(name: str) -> None:
    config, constraint = CONFIGS[name]
    n = 2500
    alone, _ = endings(Engine(Bigrams(tables()[0])), n, {**config, "seed": 5}, constraint)
    drafted, n_accepted = endings(drafting(), n, {**config, "seed": 6}, constraint)
    assert n_accepted > n / 4
    assert len(alone) > 20
    assert abs(chi_square(alone, drafted)) < 3.5
    # the same test would find the draft model's own texts out
    other, _ = endings(Engine(Bigrams(tables()[1])), n, {**config, "seed": 6}, constraint)
    assert chi_square(alone, other) > 6


@pytest.mark.slow
def test_where_a_draft_ends_does_not_change_the_distribution() -> None:
    drafter = drafting(p_min=0.4).drafter
    assert isinstance(drafter, ModelDrafter)
    drafter.n_min = 0  # ends where no token is likely enough
    engine = Engine(Bigrams(tables()[0]), drafter=drafter)
    engine._length = drafting()._length  # as often as it may
    alone, _ = endings(Engine(Bigrams(tables()[0])), 2500, {**OFF, "seed": 5}, None)
    drafted, n_accepted = endings(engine, 2500, {**OFF, "seed": 6}, None)
    assert n_accepted > 500
    assert abs(chi_square(alone, drafted)) < 3.5


@pytest.mark.slow
def test_more_is_accepted_than_of_the_likeliest_tokens() -> None:
    """As many as by any rule: the sum of min(p, q), not the share of q's likeliest token."""
    n, p, q = 4000, *(np.exp(t) / np.exp(t).sum(-1, keepdims=True) for t in tables())
    _, n_accepted = endings(drafting(n=1), n, {**OFF, "seed": 1}, None)
    # of three tokens the second is drafted, after a first one that the model gives after 2
    expected = p[2] @ np.minimum(p, q).sum(-1)
    assert abs(n_accepted / n - expected) < 4 * (expected * (1 - expected) / n) ** 0.5
    assert n_accepted / n > p[2] @ p[range(N_VOCAB), q.argmax(-1)] + 0.1


def test_logits_that_are_no_numbers_are_reported() -> None:
    broken = Bigrams(np.full((N_VOCAB, N_VOCAB), np.nan, np.float32))
    settings = DraftSettings(n_max=2, n_min=2)
    drafter = ModelDrafter(lambda slot: Engine(broken), (N_VOCAB, N_VOCAB), settings)
    with pytest.raises(GgufError, match="the draft model computed logits that are no finite"):
        endings(Engine(Bigrams(tables()[0]), drafter=drafter), 1, OFF, None)


def test_tokens_that_the_draft_model_lacks_are_not_drafted_after() -> None:
    settings = DraftSettings(n_max=2, n_min=2, p_min=0)
    drafter = ModelDrafter(lambda slot: Engine(Bigrams(tables()[1])), (2, N_VOCAB), settings)
    assert drafter.draft([1, 1, 2], 2, lambda: Sampler(SamplerConfig(temp=0)).proposer([])) == []
    drafted = drafter.draft([1, 1], 2, lambda: Sampler(SamplerConfig(temp=0)).proposer([]))
    assert len(drafted) == 2


# -- texts of whole models -------------------------------------------------------------------------

PROMPTS = ("Once upon a time", "Tim had a red ball. Tim had", "", "The dog said:")
GREEDY: dict[str, dict[str, Any]] = {
    "plain": {},
    "repeat_penalty": {"repeat_penalty": 1.2},
    "dry": {"dry_multiplier": 0.8},
    "frequency": {"frequency_penalty": 0.4, "repeat_last_n": -1},
    "bias": {"logit_bias": {411: -5.0}},
}


@pytest.fixture(scope="module")
def pair(data: Path) -> Iterator[tuple[LoadedModel, LoadedModel]]:
    """A model, and the same with a draft model."""
    path, draft = (data / "models" / f"stories260K.{quant}.gguf" for quant in ("f32", "q4_0"))
    settings = DraftSettings(draft, n_max=5, n_min=5)
    with (
        open_model(path, ModelSettings(n_ctx=128)) as alone,
        open_model(path, ModelSettings(n_ctx=128), draft=settings) as drafting,
    ):
        yield alone, drafting


def text_of(loaded: LoadedModel, engine: Engine, prompt: str, **config: Any) -> Generation:
    sampler = Sampler(SamplerConfig.from_options(**config), loaded.tokenizer)
    ids = tuple(loaded.tokenizer.encode(prompt))
    text = Generation(GenerationRequest(ids, LogitsSampler(sampler), 90), loaded.tokenizer, 128)
    for _ in engine.stream(text):
        pass
    return text


@pytest.mark.parametrize(("prompt", "config"), list(itertools.product(PROMPTS, GREEDY)))
def test_greedy_texts_are_the_same(
    pair: tuple[LoadedModel, LoadedModel], prompt: str, config: str
) -> None:
    alone, drafted = (
        text_of(loaded, loaded.engine(), prompt, temp=0, **GREEDY[config]) for loaded in pair
    )
    assert alone.tokens == drafted.tokens
    assert drafted.timings.n_drafted > drafted.timings.n_accepted > 20


def test_a_seed_gives_the_same_text_again_with_drafts_of_one_length(
    pair: tuple[LoadedModel, LoadedModel],
) -> None:
    texts = [text_of(pair[1], pair[1].engine(), PROMPTS[0], temp=0.9, seed=4) for _ in range(2)]
    assert texts[0].tokens == texts[1].tokens
    assert texts[0].timings.n_accepted > 20


def test_a_model_that_drafts_has_the_same_context(pair: tuple[LoadedModel, LoadedModel]) -> None:
    assert pair[1].draft_model is not None
    assert pair[1].draft_model.model.n_ctx == pair[1].model.n_ctx


# -- what cannot draft -----------------------------------------------------------------------------


def test_another_vocabulary_is_refused(data: Path, embedded: Path) -> None:
    other, path = embedded, data / "models" / "stories260K.q4_0.gguf"
    with pytest.raises(UsageError, match=r"`tiny-mixtral.f16.gguf` cannot draft for this model: "):
        open_model(path, ModelSettings(n_ctx=64), draft=DraftSettings(other))


VOCAB = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": [f"{i:02}" for i in range(200)],
    "tokenizer.ggml.scores": [0.0] * 200,
    "tokenizer.ggml.token_type": [1] * 200,
}


def tokens(*, n: int = 200, **changed: str) -> list[str]:
    return [changed.get(f"at{i}", f"{i:02}") for i in range(n)]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({}, None),
        ({"tokenizer.ggml.tokens": tokens(at3="x")}, None),  # controls differ between files
        ({"tokenizer.ggml.tokens": tokens(n=328)}, None),  # padded
        ({"tokenizer.ggml.tokens": tokens(n=329)}, "329 tokens, expected 200, or at most 128 more"),
        ({"tokenizer.ggml.tokens": tokens(at150="x")}, "token 150 is 'x' there, expected '150'"),
        ({"tokenizer.ggml.bos_token_id": 7}, "texts have token 7 as bos, expected token 1 as bos"),
        ({"tokenizer.ggml.add_bos_token": False}, "texts have no bos, expected token 1 as bos"),
        ({"tokenizer.ggml.add_eos_token": True}, "texts have token 2 as eos, expected no eos"),
    ],
)
def test_vocabularies_are_compared(change: dict[str, Any], difference: str | None) -> None:
    other = {**VOCAB, **change}
    n = len(other["tokenizer.ggml.tokens"])
    other |= {"tokenizer.ggml.scores": [0.0] * n, "tokenizer.ggml.token_type": [1] * n}
    one, two = (SpmTokenizer(read_vocab(each)) for each in (VOCAB, other))
    if difference is None:
        require_same_vocabulary(one, two, "small.gguf")
        return
    with pytest.raises(UsageError, match=difference):
        require_same_vocabulary(one, two, "small.gguf")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (DraftSettings(n_max=-1), "draft_max -1: expected 0 or more"),
        (DraftSettings(n_max=4, n_min=5), "draft_min 5: expected 0 to 4, the maximum"),
        (DraftSettings(p_min=1.5), "draft_p_min 1.5: expected 0 to 1"),
    ],
)
def test_settings_that_no_draft_has_are_refused(settings: DraftSettings, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        settings.check()
