"""Guessing the next tokens from the text itself: where its last words stood before, what came then.

A guess costs little and may be wrong: the engine has the model check all of it in one pass. Source:
A. Saxena, "Prompt Lookup Decoding" (2023).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

_LONGEST, _SHORTEST = 4, 2  # tokens that must agree; fewer agree by chance


class PromptLookup:
    """Guesses that what followed the last tokens before will follow them again.

    Args:
        n_draft: Most tokens of a guess.
    """

    def __init__(self, n_draft: int) -> None:
        self._n_draft = n_draft

    def draft(self, tokens: Sequence[int]) -> list[int]:
        """Return a guess of the tokens that come next; empty when nothing like it came before.

        The longest match wins, of those the latest: after 1 2 3 9 1 2 3 the guess is 9 1 2 3.
        """
        words = array("i", tokens)
        text, size = words.tobytes(), words.itemsize
        for n in range(min(_LONGEST, len(words) - 1), _SHORTEST - 1, -1):
            end = len(text) - size  # a match that ends before the last token
            pattern = text[-n * size :]
            at = text.rfind(pattern, 0, end)
            while at > 0 and at % size:  # across the bytes of two tokens
                at = text.rfind(pattern, 0, at + n * size - 1)
            if at >= 0 and at % size == 0:
                first = at // size + n
                return list(tokens[first : first + self._n_draft])
        return []
