"""A sampler with logits processors before it and log probabilities after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import UsageError
from gguf_hub.run.sampler import Proposal, Sampler, log_softmax
from gguf_hub.run.sampler.rows import SharedSettings, choose_rows, shared_settings

Logits = NDArray[np.float32]
Processor = Callable[[NDArray[np.intc], Logits], Logits]
"""(ids so far, logits [V]) -> logits [V]: llama-cpp-python's ``logits_processor``."""

_PROCESSOR_HINT = "it is called with ids and logits, and returns logits of all tokens"


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a token was.

    Attributes:
        token_id: The token that was chosen.
        logprob: Natural logarithm of its probability, under the model itself or among the tokens
            that it was drawn from.
        top: (token id, logprob) of the most likely tokens, the likeliest first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class LogitsSampler:
    """Samples tokens and records the log probability of the last one.

    Args:
        sampler: The sampler.
        n_top: Number of most likely tokens to record; None to record nothing.
        processors: Change the logits before the sampler, one after another.
        is_after_sampling: Record how likely tokens were among those that the sampler has left,
            after its temperature, and not under the model itself.
    """

    def __init__(
        self,
        sampler: Sampler,
        *,
        n_top: int | None = None,
        processors: Sequence[Processor] = (),
        is_after_sampling: bool = False,
    ) -> None:
        self.sampler = sampler
        self.n_top = n_top
        self._processors = tuple(processors)
        self._is_after_sampling = is_after_sampling
        self.last: TokenLogprob | None = None
        """The last token, unless ``n_top`` is None."""

    @cached_property
    def shared_settings(self) -> SharedSettings | None:
        """By which settings it may draw together with others that have the same, or None."""
        if self._processors or (self.n_top is not None and self._is_after_sampling):
            return None
        return shared_settings(self.sampler)

    def choose(
        self,
        logits: Logits,
        recent: Sequence[int] = (),
        proposal: Proposal | None = None,
        chosen: int | None = None,
    ) -> int:
        """Return the id of the next token (see ``Sampler.choose``).

        Args:
            logits: float32 [V].
            recent: Ids so far.
            proposal: The token that was drafted here.
            chosen: The token, where ``choose_together`` has drawn it.
        """
        if chosen is not None:
            if self.n_top is not None:
                self.last = self._logprob(logits, chosen, self.n_top)
            return chosen
        adjusted = logits
        if self._processors:
            ids, adjusted = np.array(recent, np.intc), logits.copy()
            for processor in self._processors:
                adjusted = _checked(processor, processor(ids, adjusted), len(logits))
        token_id = self.sampler.choose(adjusted, recent, proposal)
        if self.n_top is not None:
            self.last = self._logprob(logits, token_id, self.n_top)
        return token_id

    def _logprob(self, logits: Logits, token_id: int, n_top: int) -> TokenLogprob:
        drawn = self.sampler.drawn
        if not self._is_after_sampling or drawn is None:
            return token_logprob(logits, token_id, n_top)
        (index,) = np.flatnonzero(drawn.ids == token_id)
        entry = token_logprob(drawn.logits, int(index), n_top)
        top = tuple((int(drawn.ids[i]), logprob) for i, logprob in entry.top if logprob > -np.inf)
        return TokenLogprob(token_id, entry.logprob, top)


def _checked(processor: Processor, logits: Any, n_vocab: int) -> Logits:
    """Return what a processor returned, if it can be sampled from.

    Raises:
        UsageError: It cannot; the message names the processor.
    """
    name = getattr(processor, "__name__", type(processor).__name__)
    at = f"logits processor `{name}`: expected {n_vocab} logits as a numpy array of floats"
    if not isinstance(logits, np.ndarray):
        raise UsageError(f"{at}, found {type(logits).__name__}", hint=_PROCESSOR_HINT)
    if logits.shape != (n_vocab,) or logits.dtype.kind != "f":
        raise UsageError(f"{at}, found {logits.dtype} of shape {logits.shape}",
                         hint=_PROCESSOR_HINT)  # fmt: skip
    largest = logits.max()  # NaN if one is
    if np.isnan(largest) or largest == np.inf:
        raise UsageError(f"{at} below infinity, found {largest}", hint=_PROCESSOR_HINT)
    if largest == -np.inf:
        raise UsageError(f"logits processor `{name}`: it left no token, all logits are -inf")
    return logits.astype(np.float32, copy=False)


_MIN_TOGETHER = 4  # fewer are faster one by one


def choose_together(samplers: Sequence[LogitsSampler], logits: Logits) -> list[int | None]:
    """Return the next tokens of samplers that draw with others, None for those that do not.

    Args:
        samplers: Of some texts.
        logits: After the last token of each, [len(samplers), V].
    """
    chosen: list[int | None] = [None] * len(samplers)
    groups: dict[SharedSettings, list[int]] = {}
    for i, sampler in enumerate(samplers):
        if sampler.shared_settings is not None:
            groups.setdefault(sampler.shared_settings, []).append(i)
    for settings, rows in groups.items():
        if len(rows) >= _MIN_TOGETHER:
            own = logits if len(rows) == len(logits) else logits[rows]
            for i, token_id in zip(
                rows, choose_rows([samplers[i].sampler for i in rows], settings, own), strict=True
            ):
                chosen[i] = token_id
    return chosen


def token_logprob(logits: Logits, token_id: int, n_top: int) -> TokenLogprob:
    """Return how likely a token and the ``n_top`` likeliest ones were, given logits [V]."""
    logprobs = log_softmax(logits)
    n_top = min(n_top, len(logits))
    best = np.argpartition(-logprobs, n_top - 1)[:n_top] if n_top else np.zeros(0, np.int64)
    best = best[np.argsort(-logprobs[best], kind="stable")]
    top = tuple((int(i), float(logprobs[i])) for i in best)
    return TokenLogprob(token_id, float(logprobs[token_id]), top)
