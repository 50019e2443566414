"""A sampler: the chain of steps of its settings, and its random numbers.

Source: llama.cpp, common/sampling.cpp ``common_sampler_init`` and ``common_sampler_sample``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from gguf_hub.errors import GgufError, UsageError
from gguf_hub.run.sampler import filters
from gguf_hub.run.sampler.config import SamplerConfig
from gguf_hub.run.sampler.dry import Breakers, BreakerVocab, dry_penalties, find_breakers
from gguf_hub.run.sampler.filters import Candidates, Floats
from gguf_hub.run.sampler.rng import MersenneTwister

_MIROSTAT_M = 100  # candidates from which mirostat 1 estimates the shape of the distribution

Step = Callable[[Candidates, Sequence[int]], Candidates]


class Sampled(NamedTuple):
    """The token that was chosen.

    Attributes:
        token_id: Its id.
        logprob: Natural logarithm of its probability under the model itself: the softmax of
            the logits before bias, mask, penalties and temperature.
    """

    token_id: int
    logprob: float


class Constraint(Protocol):
    """What the output must follow, such as a grammar's ``Matcher``."""

    def mask(self) -> npt.NDArray[np.bool_]:
        """Return the tokens allowed next, bool [V]."""

    def accept(self, token_id: int) -> None:
        """Go on by one token."""


class Sampler:
    """Chooses tokens; the same seed and the same logits give the same tokens.

    Args:
        config: Checked settings (``SamplerConfig.from_options``).
        vocab: The tokenizer, needed only for DRY's sequence breakers.
        constraint: Allows some tokens at each step and accepts the one that was chosen.

    Raises:
        UsageError: DRY is on, has sequence breakers, and no vocabulary was given.
    """

    def __init__(
        self,
        config: SamplerConfig,
        vocab: BreakerVocab | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        self.config = config
        self._constraint = constraint
        self._breakers = self._find_breakers(vocab)
        self._steps = self._chain()
        self.reset()

    def reset(self) -> None:
        """Begin anew: random numbers from the seed, mirostat from its start.

        A constraint stays where it is: give each generation its own.
        """
        self._rng = MersenneTwister(self.config.seed)
        self._xtc_rng = MersenneTwister(self._rng.seed)
        self._mu = 2 * self.config.mirostat_tau
        self.drawn: Candidates | None = None
        """What the last token was drawn from: tokens that all steps have left."""

    @property
    def seed(self) -> int:
        """The seed in use, drawn from the system where the settings say -1."""
        return self._rng.seed

    def sample(self, logits: Floats, recent: Sequence[int] = ()) -> Sampled:
        """Choose the next token and say how likely it was (see ``choose``)."""
        token_id = self.choose(logits, recent)
        return Sampled(token_id, filters.log_prob(logits, token_id))

    def choose(self, logits: Floats, recent: Sequence[int] = ()) -> int:
        """Return the id of the next token.

        Args:
            logits: float32 [V]; left as they are.
            recent: Ids so far, prompt included, the newest last.

        Raises:
            GgufError: The logits hold NaN or infinity.
            UsageError: No token is allowed.
        """
        if not math.isfinite(filters.largest(logits)):
            raise GgufError(
                "the model computed logits that are no finite numbers: its weights are damaged",
                hint="`gguf-hub verify --deep` finds the tensor",
            )
        candidates = self._start(logits)
        for step in self._steps:
            candidates = step(candidates, recent)
        token_id = self._draw(candidates, len(logits))
        if self._constraint is not None:
            self._constraint.accept(token_id)
        return token_id

    # The chain

    def _find_breakers(self, vocab: BreakerVocab | None) -> Breakers:
        config = self.config
        if config.dry_multiplier == 0 or not config.dry_sequence_breakers:
            return {}
        if vocab is None:
            raise UsageError(
                "dry_multiplier: sequence breakers need the model's vocabulary, found none",
                hint="pass the tokenizer, or set dry_sequence_breakers to none",
            )
        return find_breakers(config.dry_sequence_breakers, vocab)

    def _chain(self) -> list[Step]:
        """Return the steps that do something, in order."""
        c = self.config
        if c.mirostat and not c.is_greedy:
            return [self._temperature]
        steps: dict[str, tuple[bool, Step]] = {
            "penalties": (self._has_penalties(), self._penalties),
            "dry": (self._has_dry(), self._dry),
            "top_n_sigma": (c.top_n_sigma > 0, lambda x, _: filters.top_n_sigma(x, c.top_n_sigma)),
            "top_k": (c.top_k > 0, lambda x, _: filters.top_k(x, c.top_k)),
            "typ_p": (c.typical_p < 1, lambda x, _: filters.typical(x, c.typical_p, c.min_keep)),
            "top_p": (c.top_p < 1, lambda x, _: filters.top_p(x, c.top_p, c.min_keep)),
            "min_p": (c.min_p > 0, lambda x, _: filters.min_p(x, c.min_p, c.min_keep)),
            "xtc": (c.xtc_probability > 0 and c.xtc_threshold <= 0.5, self._xtc),
            "temperature": (True, self._temperature),
        }
        # The most likely token survives whatever the other steps drop: greedy needs only these.
        names = [n for n in c.samplers if not c.is_greedy or n in ("penalties", "dry")]
        return [steps[name][1] for name in names if steps[name][0]]

    def _has_penalties(self) -> bool:
        c = self.config
        changes = (c.repeat_penalty, c.frequency_penalty, c.presence_penalty) != (1, 0, 0)
        return changes and c.repeat_last_n != 0

    def _has_dry(self) -> bool:
        c = self.config
        return c.dry_multiplier > 0 and c.dry_base >= 1 and c.dry_penalty_last_n != 0

    def _start(self, logits: Floats) -> Candidates:
        """Return all candidates, biased and masked."""
        if self.config.logit_bias:
            logits = logits.copy()
            for token_id, bias in self.config.logit_bias.items():
                if token_id >= len(logits):
                    raise UsageError(f"logit_bias: expected a token id in [0, {len(logits) - 1}], "
                                     f"found {token_id}")  # fmt: skip
                logits[token_id] += bias
        ids = np.arange(len(logits))
        if self._constraint is not None:
            ids = np.flatnonzero(self._constraint.mask()[: len(logits)])
            logits = logits[ids]
        if len(ids) == 0 or filters.largest(logits) == -np.inf:
            raise UsageError(
                "no token is possible here: every one is banned",
                hint="loosen the grammar or the logit bias",
            )
        return Candidates(ids, logits)

    # Steps with memory

    def _penalties(self, candidates: Candidates, recent: Sequence[int]) -> Candidates:
        c = self.config
        window = recent if c.repeat_last_n < 0 else recent[-c.repeat_last_n :]
        return filters.penalties(
            candidates, window, c.repeat_penalty, c.frequency_penalty, c.presence_penalty
        )

    def _dry(self, candidates: Candidates, recent: Sequence[int]) -> Candidates:
        amounts = dry_penalties(recent, self.config, self._breakers)
        return filters.subtract(candidates, amounts) if amounts else candidates

    def _xtc(self, candidates: Candidates, recent: Sequence[int]) -> Candidates:
        if len(candidates.ids) < 2 or self._xtc_rng.uniform_single() > self.config.xtc_probability:
            return candidates
        return filters.xtc(candidates, self.config.xtc_threshold, self.config.min_keep)

    def _temperature(self, candidates: Candidates, recent: Sequence[int]) -> Candidates:
        c = self.config
        if c.dynatemp_range > 0:
            return filters.dynamic_temperature(
                candidates, c.temp, c.dynatemp_range, c.dynatemp_exponent
            )
        return filters.temperature(candidates, c.temp)

    # The draw

    def _draw(self, candidates: Candidates, n_vocab: int) -> int:
        if self.config.is_greedy:
            self.drawn = filters.temperature(candidates, 0)
            return int(self.drawn.ids[0])
        self.drawn = candidates
        if self.config.mirostat == 0:
            return int(candidates.ids[self._pick(candidates.probs())])
        # Mirostat: cut to the target surprise, draw, and correct by the error.
        # Source: Basu et al. 2021 (arXiv 2007.14966), algorithms 1 and 2.
        cut = self._cut_v1 if self.config.mirostat == 1 else self._cut_v2
        c = self.drawn = cut(candidates, n_vocab)
        probs = c.probs()
        index = self._pick(probs)
        error = -math.log2(probs[index]) - self.config.mirostat_tau
        self._mu = filters.tame(self._mu - self.config.mirostat_eta * error)
        return int(c.ids[index])

    def _pick(self, probs: filters.Doubles) -> int:
        """Return an index drawn by probability; a single candidate costs a draw, too."""
        reach = probs.cumsum()
        index = int(reach.searchsorted(self._rng.uniform() * reach[-1], side="left"))
        return min(index, len(probs) - 1)

    def _cut_v1(self, c: Candidates, n_vocab: int) -> Candidates:
        """Keep the k best, where k follows from Zipf's law fitted to the best hundred."""
        logits = filters.top_k(c, _MIROSTAT_M).logits.astype(np.float64)
        logits = logits[logits > -np.inf]
        ranks = np.arange(1, len(logits))
        t, b = np.log((ranks + 1) / ranks), logits[:-1] - logits[1:]
        s = float((t * b).sum() / (t * t).sum()) if len(ranks) else 0.0
        if s <= 0 or s == 1:  # flat, or exactly 1 / rank: the formula has no value
            return filters.top_k(c, len(c.ids))
        # k = (epsilon 2^mu / (1 - n^-epsilon)) ^ (1/s), in logarithms so that nothing overflows
        epsilon = s - 1
        log_k = math.log(epsilon / (1 - n_vocab**-epsilon)) + self._mu * math.log(2)
        k = math.exp(min(log_k / s, math.log(len(c.ids))))
        return filters.top_k(c, max(int(k), 1))

    def _cut_v2(self, c: Candidates, n_vocab: int) -> Candidates:
        """Keep those whose surprise in bits is at most mu; at least one."""
        probs = c.probs()
        likely = probs >= min(2.0 ** min(-self._mu, 0.0), float(probs.max()))
        return c.keep(likely).sorted()
