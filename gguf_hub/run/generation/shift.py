"""Context shift: when the context is full, its beginning stays and half of the rest is discarded.

The tokens that the cache should hold depend on the text alone, so that a text that continues later
(the next turn of a session) finds them in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_FREE = 4  # positions that n_keep leaves at least, as in llama-server


@dataclass(frozen=True)
class ContextShift:
    """Which tokens stay when a text grows beyond the context.

    Attributes:
        n_ctx: Positions of the cache.
        n_keep: Tokens at the beginning that stay.
    """

    n_ctx: int
    n_keep: int

    @classmethod
    def after(
        cls, prompt: Sequence[int], n_keep: int, n_ctx: int, bos_id: int | None
    ) -> ContextShift:
        """Return the context shift of the text after a prompt.

        Args:
            prompt: Token ids.
            n_keep: llama.cpp's ``--keep``: tokens of the prompt that stay, the begin token not
                counted, which always stays; negative for the whole prompt.
            n_ctx: Positions of the cache.
            bos_id: The model's begin token.
        """
        n_bos = int(len(prompt) > 0 and prompt[0] == bos_id)
        n_prefix = len(prompt) if n_keep < 0 else min(n_keep + n_bos, len(prompt))
        return cls(n_ctx, max(0, min(n_prefix, n_ctx - _FREE)))

    def window(self, tokens: Sequence[int]) -> list[int]:
        """Return the tokens of a text that the cache should hold, at most ``n_ctx``.

        With n_ctx 10 and n_keep 2, each time that the eleventh token comes, the four after the
        first two are discarded: of 0 1 2 ... 10 the window is 0 1 6 7 8 9 10.

        Source: the loop of tools/completion/completion.cpp and ``context shift`` in
        tools/server/server-context.cpp of llama.cpp, which shift one token earlier.
        """
        n_block = max(1, (self.n_ctx - self.n_keep) // 2)
        n_excess = max(0, len(tokens) - self.n_ctx)
        n_blocks = -(-n_excess // n_block)
        return [*tokens[: self.n_keep], *tokens[self.n_keep + n_blocks * n_block :]]
