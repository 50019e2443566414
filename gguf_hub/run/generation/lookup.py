"""Drafting the next tokens from the text itself: what came where its last tokens stood before.

A draft costs little and may be wrong: the engine has the model check all of it in one pass. Source:
A. Saxena, "Prompt Lookup Decoding" (2023).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence


class PromptLookup:
    """Drafts that what followed the last tokens before will follow them again.

    Args:
        n_draft: Most tokens of a draft.
        longest: Most tokens that must agree.
        shortest: Fewest tokens that must agree; fewer than two agree by chance.
    """

    def __init__(self, n_draft: int, *, longest: int = 4, shortest: int = 2) -> None:
        self.n_draft = n_draft
        self._longest, self._shortest = longest, shortest

    def draft(self, tokens: Sequence[int]) -> list[int]:
        """Return tokens that may come next; none when nothing like it came before.

        The longest match wins, of those the latest: after 1 2 3 9 1 2 3 the draft is 9 1 2 3.
        """
        words = array("i", tokens)
        text, size = words.tobytes(), words.itemsize
        for n in range(min(self._longest, len(words) - 1), self._shortest - 1, -1):
            end = len(text) - size  # a match that ends before the last token
            pattern = text[-n * size :]
            at = text.rfind(pattern, 0, end)
            while at > 0 and at % size:  # across the bytes of two tokens
                at = text.rfind(pattern, 0, at + n * size - 1)
            if at >= 0 and at % size == 0:
                first = at // size + n
                return list(tokens[first : first + self.n_draft])
        return []
