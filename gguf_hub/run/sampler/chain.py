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

    def mask(self) -> npt.NDArray[np.bool_] | None:
        """Return the tokens allowed next, bool [V]; None for all."""

    def accept(self, token_id: int) -> None:
        """Go on by one token."""

    def ahead(self) -> Constraint:
        """Return one in the same state, to go on with drafted tokens; the budget is shared."""


class Proposal(NamedTuple):
    """A drafted token, and what it was drawn from.

    Attributes:
        token_id: Its id.
        ids: Ascending ids of the tokens that could have been drawn, int64 [C]; None where the
            token was not drawn at random.
        probs: How likely each was, float64 [C].
    """

    token_id: int
    ids: filters.Ints | None = None
    probs: filters.Doubles | None = None

    def probs_of(self, ids: filters.Ints) -> filters.Doubles:
        """Return how likely some tokens were, [len(ids)]."""
        assert self.ids is not None and self.probs is not None
        at = np.minimum(self.ids.searchsorted(ids), len(self.ids) - 1)
        return np.where(self.ids[at] == ids, self.probs[at], 0.0)


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
        self.step_names, self._steps = self._chain()
        """Names of the steps that do something, in order."""
        self.reset()

    def reset(self) -> None:
        """Begin anew: random numbers from the seed, mirostat from its start.

        A constraint stays where it is: give each generation its own.
        """
        self._rng = MersenneTwister(self.config.seed)
        self._mu = 2 * self.config.mirostat_tau
        self.drawn: Candidates | None = None
        """What the last token was drawn from: tokens that all steps have left; None where it was
        drawn together with those of others."""
        self._xtc_rng: MersenneTwister | None = None
        self._draft_rng: MersenneTwister | None = None

    @property
    def seed(self) -> int:
        """The seed in use, drawn from the system where the settings say -1."""
        return self._rng.seed

    def sample(self, logits: Floats, recent: Sequence[int] = ()) -> Sampled:
        """Choose the next token and say how likely it was (see ``choose``)."""
        token_id = self.choose(logits, recent)
        return Sampled(token_id, filters.log_prob(logits, token_id))

    def choose(
        self, logits: Floats, recent: Sequence[int] = (), proposal: Proposal | None = None
    ) -> int:
        """Return the id of the next token.

        Args:
            logits: float32 [V]; left as they are.
            recent: Ids so far, prompt included, the newest last.
            proposal: The token that was drafted here: it is taken as often as it can be without
                changing how likely any token is.

        Raises:
            GgufError: The logits hold NaN or infinity.
            UsageError: No token is allowed.
        """
        candidates = self._start(logits, self._constraint)
        for step in self._steps:
            candidates = step(candidates, recent)
        token_id = self._draw(candidates, len(logits), proposal)
        if self._constraint is not None:
            self._constraint.accept(token_id)
        return token_id

    @property
    def has_constraint(self) -> bool:
        """Whether the output must follow something."""
        return self._constraint is not None

    def draw(self) -> float:
        """Return the next random number, in [0, 1)."""
        return self._rng.uniform()

    def proposer(self, recent: Sequence[int]) -> Proposer:
        """Return what drafts the tokens after ``recent`` by the settings of this sampler."""
        return Proposer(self, recent)

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

    def _chain(self) -> tuple[tuple[str, ...], list[Step]]:
        """Return the names of the steps that do something, in order, and the steps."""
        c = self.config
        if c.mirostat and not c.is_greedy:
            return ("temperature",), [self._temperature]
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
        names = [name for name in names if steps[name][0]]
        return tuple(names), [steps[name][1] for name in names]

    def _has_penalties(self) -> bool:
        c = self.config
        changes = (c.repeat_penalty, c.frequency_penalty, c.presence_penalty) != (1, 0, 0)
        return changes and c.repeat_last_n != 0

    def _has_dry(self) -> bool:
        c = self.config
        return c.dry_multiplier > 0 and c.dry_base >= 1 and c.dry_penalty_last_n != 0

    def _start(self, logits: Floats, constraint: Constraint | None) -> Candidates:
        """Return all candidates, biased and masked.

        Raises:
            GgufError: The logits hold NaN or infinity.
            UsageError: None is left.
        """
        if not math.isfinite(filters.largest(logits)):
            raise GgufError(
                "the model computed logits that are no finite numbers: its weights are damaged",
                hint="`gguf-hub verify --deep` finds the tensor",
            )
        if self.config.logit_bias:
            logits = logits.copy()
            for token_id, bias in self.config.logit_bias.items():
                if token_id >= len(logits):
                    raise UsageError(f"logit_bias: expected a token id in [0, {len(logits) - 1}], "
                                     f"found {token_id}")  # fmt: skip
                logits[token_id] += bias
        ids = np.arange(len(logits))
        mask = None if constraint is None else constraint.mask()
        if mask is not None:
            ids = np.flatnonzero(mask[: len(logits)])
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
        if len(candidates.ids) < 2:
            return candidates
        if self._xtc_rng is None:
            self._xtc_rng = MersenneTwister(self._rng.seed)
        if self._xtc_rng.uniform_single() > self.config.xtc_probability:
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

    def _draw(self, candidates: Candidates, n_vocab: int, proposal: Proposal | None) -> int:
        if self.config.is_greedy:
            self.drawn = filters.temperature(candidates, 0)
            return int(self.drawn.ids[0])
        c = self.drawn = self._cut(candidates, n_vocab)
        if proposal is None or proposal.probs is None:
            index = _pick(c.powers(), self._rng)
        else:
            index = self._pick_against(proposal, c.ids, c.probs())
        if self.config.mirostat:  # correct by the error
            error = -math.log2(c.probs()[index]) - self.config.mirostat_tau
            self._mu = filters.tame(self._mu - self.config.mirostat_eta * error)
        return int(c.ids[index])

    def _pick_against(self, proposal: Proposal, ids: filters.Ints, probs: filters.Doubles) -> int:
        """Return the index of the drafted token, or of one drawn from what drafts fall short of.

        Drawn with q and taken with probability min(1, p / q), else replaced by a draw from
        max(0, p - q): the result is distributed as p. Source: Leviathan, Kalman and Matias 2023
        (arXiv 2211.17192), algorithm 1 and appendix A.1.
        """
        drafted = proposal.probs_of(ids)
        for index in np.flatnonzero(ids == proposal.token_id):
            if self._rng.uniform() * drafted[index] < probs[index]:
                return int(index)
        rest = np.maximum(probs - drafted, 0)
        return _pick(rest if rest.any() else probs, self._rng)

    def _cut(self, c: Candidates, n_vocab: int) -> Candidates:
        """Cut to mirostat's target surprise, where it is on.

        Source: Basu et al. 2021 (arXiv 2007.14966), algorithms 1 and 2.
        """
        if self.config.mirostat == 1:
            return self._cut_v1(c, n_vocab)
        return self._cut_v2(c) if self.config.mirostat else c

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

    def _cut_v2(self, c: Candidates) -> Candidates:
        """Keep those whose surprise in bits is at most mu; at least one."""
        probs = c.probs()
        likely = probs >= min(2.0 ** min(-self._mu, 0.0), float(probs.max()))
        return c.keep(likely).sorted()


class Proposer:
    """Drafts tokens of a text by a sampler's settings; the sampler stays as it is.

    What it draws from is the sampler's chain on the logits of another model, without what would
    take random numbers or state from the sampler: XTC is left out, mirostat stands still.

    Args:
        sampler: Whose settings; it judges the drafts.
        recent: Ids so far, the newest last.
    """

    def __init__(self, sampler: Sampler, recent: Sequence[int]) -> None:
        self._sampler = sampler
        self._recent = list(recent)
        constraint = sampler._constraint
        self._constraint = constraint.ahead() if constraint is not None else None
        self._steps = [step for step in sampler._steps if step != sampler._xtc]
        if sampler._draft_rng is None:  # one for all drafts of a text, apart from the sampler's
            sampler._draft_rng = MersenneTwister(sampler.seed ^ _DRAFT_SEED)
        self._rng = sampler._draft_rng

    def choose(self, logits: Floats) -> Proposal | None:
        """Return the next drafted token, or None where the constraint allows none.

        Args:
            logits: The drafting model's, float32 [V].

        Raises:
            GgufError: They hold NaN or infinity.
        """
        try:
            proposal = self._choose(logits)
            if self._constraint is not None:
                self._constraint.accept(proposal.token_id)
        except UsageError:  # the sampler itself comes here, and says so, if nothing is possible
            return None
        self._recent.append(proposal.token_id)
        return proposal

    def _choose(self, logits: Floats) -> Proposal:
        sampler = self._sampler
        candidates = sampler._start(logits, self._constraint)
        for step in self._steps:
            candidates = step(candidates, self._recent)
        if sampler.config.is_greedy:
            return Proposal(int(candidates.ids[candidates.logits.argmax()]))
        c = sampler._cut(candidates, len(logits))
        probs = c.probs()
        token_id = int(c.ids[_pick(probs, self._rng)])
        order = c.ids.argsort()
        return Proposal(token_id, c.ids[order], probs[order])


_DRAFT_SEED = 0x9E3779B9  # apart from the seed of what judges the drafts


def _pick(powers: filters.Doubles, rng: MersenneTwister) -> int:
    """Return an index drawn by relative probability; a single candidate costs a draw, too."""
    reach = powers.cumsum()
    index = int(reach.searchsorted(rng.uniform() * reach[-1], side="left"))
    return min(index, len(powers) - 1)
