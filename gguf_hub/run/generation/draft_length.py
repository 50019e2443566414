"""How many tokens to draft: as many as pay, measured while a text is generated.

A draft costs the time of drafting, and a pass over more tokens; it pays by the tokens that are
accepted. Both are measured. What drafts lose all the same, such as those that find out whether
drafting pays again, stays within a small share of the time so far.
"""

from __future__ import annotations

from dataclasses import dataclass

_LOSS = 0.03
"""Share of the time that may be lost to drafts."""
_N_PLAIN = 2
"""Passes without a draft before the first one, whose time drafts are compared with."""
_RENEW = 64
"""Passes after which one without a draft is measured again: the text has become longer."""
_PACE = 0.25
"""Weight of a new time in a mean."""
_MEMORY = 16.0
"""Drafted tokens that the share of accepted ones remembers."""
_GROWTH = 0.1
"""What a drafted token adds to the time of a pass before any was measured."""
_FIRST_CREDIT = 0.5
"""Passes that may be lost at first."""
_N_FIRST = 2
"""Length of the first draft."""
_MAX_CREDIT = 16
"""Passes that earlier gains pay for at most."""


@dataclass
class _Round:
    """A pass that is being judged: ``drafted`` tokens of ``n_texts`` texts."""

    n_texts: int
    drafted: int
    pass_s: float
    draft_s: float
    accepted: int = 0


class DraftLength:
    """Chooses the length of drafts for texts that are generated one pass after another.

    Args:
        n_max: Maximum length.
        n_min: Minimum length of a draft where there is room for it; with ``n_max`` itself drafts
            always have it.
    """

    def __init__(self, n_max: int, n_min: int = 0) -> None:
        self._n_max, self._n_min = n_max, max(1, n_min)
        self._is_fixed = n_min >= n_max
        self._plain_s = 0.0  # of a pass without a draft
        self._n_plain = self._n_since_plain = 0
        self._costs: dict[int, float] = {}  # drafted tokens of a text -> seconds of a pass
        self._accepted, self._tested = 0.7 * _MEMORY / 4, _MEMORY / 4
        self._elapsed_s = self._credit_s = 0.0
        self._least_loss_s = 0.0  # budgets below are for no draft
        self._is_tried = False  # whether there was a draft to be before the next pass
        self._round: _Round | None = None

    def choose(self, limit: int) -> int:
        """Return how many tokens to draft for the next pass, at most ``limit``; 0 for none."""
        self._judge()
        self._is_tried = (length := self._choose(max(0, min(limit, self._n_max)))) > 0
        return length

    def _choose(self, most: int) -> int:
        if self._is_fixed or not most:
            return most
        if self._n_plain < _N_PLAIN or self._n_since_plain >= _RENEW:
            return 0
        budget_s = self._credit_s + _LOSS * self._elapsed_s
        if budget_s < self._least_loss_s:
            return 0  # most of the time where drafts do not pay: this costs next to nothing
        lengths = [n for n in self._lengths(most) if self._cost(n) - self._plain_s <= budget_s]
        if not lengths:
            self._least_loss_s = self._cost(min(self._n_min, most)) - self._plain_s
            return 0
        best = max(lengths, key=self._speed)
        if self._speed(best) <= 1 / self._plain_s:
            return lengths[0]  # whether drafts pay again
        # nobody knows yet what they cost
        return best if self._costs else min(best, max(lengths[0], _N_FIRST))

    def record(self, drafted: int, pass_s: float, draft_s: float, n_texts: int = 1) -> None:
        """Record a pass; ``accept`` records what came of it until the next ``choose``.

        Args:
            drafted: Tokens that were drafted and checked, of all texts.
            pass_s: Seconds of the pass.
            draft_s: Seconds of drafting before it.
            n_texts: Texts that had a token in it.
        """
        self._judge()
        self._round = _Round(n_texts, drafted, pass_s, draft_s)

    def accept(self, n: int = 1) -> None:
        """Record that drafted tokens were accepted."""
        if self._round is not None:
            self._round.accepted += n

    def _judge(self) -> None:
        """Learn from the last pass."""
        last, self._round = self._round, None
        if last is None:
            return
        total_s, n = last.pass_s + last.draft_s, last.drafted / last.n_texts
        self._elapsed_s += total_s
        if not last.drafted:
            self._plain_s = _mean(self._plain_s, last.pass_s) if self._n_plain else last.pass_s
            if self._n_plain == 1:  # the first one may have waited for memory
                self._plain_s = last.pass_s
                self._credit_s = _FIRST_CREDIT * last.pass_s
            self._n_plain += 1
            self._n_since_plain = 0
            self._credit_s -= last.draft_s if self._is_tried else 0.0
            return
        self._n_since_plain += 1
        self._least_loss_s = 0.0
        length = max(1, round(n))
        self._costs[length] = _mean(self._costs.get(length, total_s), total_s)
        # the first wrong token of a text is the last one that was tested
        wrong = min(last.n_texts, last.drafted - last.accepted)
        self._accepted = _fade(self._accepted, last.accepted + wrong) + last.accepted
        self._tested = _fade(self._tested, last.accepted + wrong) + last.accepted + wrong
        gain_s = (1 + last.accepted / last.n_texts) * self._plain_s - total_s
        self._credit_s = min(self._credit_s + gain_s, _MAX_CREDIT * self._plain_s)

    def _lengths(self, most: int) -> list[int]:
        steps = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, most}
        low = min(self._n_min, most)
        return [n for n in sorted(steps | {low}) if low <= n <= most]

    def _speed(self, n: int) -> float:
        """Return the expected tokens of a text in a second."""
        rate = self._accepted / self._tested
        expected = (1 - rate ** (n + 1)) / (1 - rate) if rate < 1 else n + 1.0
        return expected / self._cost(n)

    def _cost(self, n: int) -> float:
        """Return the seconds of a pass with a draft of ``n`` tokens, by those measured so far."""
        known = sorted(self._costs)
        if n in self._costs:
            return self._costs[n]
        if not known:
            return self._plain_s * (1 + _GROWTH * n)
        near = min(known, key=lambda length: (abs(length - n), length))
        added_s = max(0.0, self._costs[near] - self._plain_s) / near
        return self._plain_s + added_s * n


def _mean(old: float, new: float) -> float:
    """Return a mean that follows the newest times; one that was interrupted counts little."""
    return old + _PACE * (min(new, 3 * old) - old)


def _fade(total: float, n: int) -> float:
    return total * max(0.0, 1 - n / _MEMORY)
