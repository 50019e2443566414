"""Text out of token ids that come one at a time.

A token may end in the middle of a character: its bytes wait until the rest has come.
"""

from __future__ import annotations

import codecs
from collections.abc import Collection

from gguf_hub.run.tokenizer.interface import EDGE, Tokenizer


class StreamDecoder:
    """Gives text as it becomes complete; its parts join to ``Tokenizer.decode``'s text.

    Args:
        tokenizer: Of the ids.
        at_start: The first id starts the text, so that its leading space is the encoder's and
            is removed; False for ids that go on from a prompt.
        special: Print control and unknown tokens too.
        marks: Ids of control tokens that are printed, each between two ``EDGE``s.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        at_start: bool = False,
        special: bool = False,
        marks: Collection[int] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._at_start = at_start
        self._special = special
        self._marks = marks
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.is_inside = False
        """Whether the bytes so far end inside a character."""

    def feed(self, token_id: int) -> str:
        """Return the text that this id completes; often its own, at times none.

        Raises:
            TokenizerError: The id is outside the vocabulary.
        """
        if token_id in self._marks:
            self._at_start = False
            return f"{self.flush()}{EDGE}{self._tokenizer.vocab.tokens[token_id]}{EDGE}"
        data = self._tokenizer.token_bytes(token_id, self._special)
        if self._at_start and data:
            data = self._tokenizer.strip_prefix(data)
            self._at_start = False
        if data.isascii() and not self.is_inside:  # most tokens, and three times faster
            text = data.decode("ascii")
        else:
            text = self._utf8.decode(data)
            self.is_inside = bool(self._utf8.getstate()[0])
        return text.replace(EDGE, "") if self._marks else text

    def flush(self) -> str:
        """Return what is left at the end: U+FFFD for a character that was never completed."""
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        self.is_inside = False
        return text
