"""Prompt lookup decoding: draft what followed an earlier occurrence of the last tokens.

A draft costs little and may be wrong: the engine has the model check all of it in one pass. Source:
A. Saxena, "Prompt Lookup Decoding" (2023).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

from gguf_hub.run.generation.engine import Drafter
from gguf_hub.run.sampler import Proposal, Proposer


class PromptLookup(Drafter):
    """Drafts the tokens that followed an earlier occurrence of the last ones.

    Args:
        n_draft: Maximum length of a draft.
        longest: Longest n-gram to look for.
        shortest: Shortest one; single tokens match by chance.
        n_min: Minimum length of a draft.
    """

    def __init__(
        self, n_draft: int, *, longest: int = 4, shortest: int = 2, n_min: int = 0
    ) -> None:
        self.n_draft, self.n_min = n_draft, n_min
        self._longest, self._shortest = longest, shortest

    def draft(
        self, tokens: Sequence[int], limit: int, proposer: Callable[[], Proposer]
    ) -> list[Proposal]:
        """See ``Drafter.draft``."""
        return [Proposal(token_id) for token_id in self.following(tokens, limit)]

    def following(self, tokens: Sequence[int], limit: int) -> list[int]:
        """Return tokens that may come next, at most ``limit``; none without an earlier occurrence.

        The longest match wins, of those the latest: after 1 2 3 9 1 2 3 the draft is 9 1 2 3.
        """
        ids = array("i", tokens)
        text, size = ids.tobytes(), ids.itemsize
        for n in range(min(self._longest, len(ids) - 1), self._shortest - 1, -1):
            end = len(text) - size  # a match that ends before the last token
            pattern = text[-n * size :]
            index = text.rfind(pattern, 0, end)
            while index > 0 and index % size:  # across the bytes of two tokens
                index = text.rfind(pattern, 0, index + n * size - 1)
            if index >= 0 and index % size == 0:
                start = index // size + n
                found = tokens[start : start + min(limit, self.n_draft)]
                return list(found) if len(found) >= self.n_min else []
        return []
