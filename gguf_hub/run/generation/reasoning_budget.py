"""A limit of the tokens that a model reasons with: then the end of its reasoning is written for it.

Source: llama.cpp, common/reasoning-budget.cpp: the budget counts anew at each start of reasoning;
used up, it waits for the end of a character, then forces a message and the mark at the end.
"""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from gguf_hub.run.generation.harmony import ANALYSIS
from gguf_hub.run.generation.reasoning import MARKS, OpenReasoning
from gguf_hub.run.tokenizer import Tokenizer


class ReasoningBudget:
    """Follows the tokens of one answer, as a ``Constraint`` of its sampler.

    Reasoning begins where a parser of answers would see it: in the prompt, at the begin of the
    answer, or at a mark that is a control token.

    Args:
        tokenizer: The model's.
        n_tokens: Tokens of reasoning, 0 or more.
        message: Text in front of the mark that ends it.
        opened: Reasoning that the prompt has begun.
        is_harmony: Whether the answer is written in gpt-oss's channels.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        n_tokens: int,
        *,
        message: str = "",
        opened: OpenReasoning | None = None,
        is_harmony: bool = False,
    ) -> None:
        self._tokenizer, self._n_tokens, self._message = tokenizer, n_tokens, message
        self._marks = {s.encode(): e for s, e in ((ANALYSIS,) if is_harmony else MARKS)}
        self._is_at_begin, self._is_harmony = True, is_harmony
        self._text = b""  # not decided yet: what may be part of a mark
        self._end = ""  # the mark that ends the reasoning; empty outside of it
        self._n_left = 0
        self._forced: tuple[int, ...] = ()  # to come next
        if opened is not None:
            self._open(opened.end)

    def mask(self) -> NDArray[np.bool_] | None:
        """Return the tokens allowed next, bool [V]; None for all."""
        if not self._forced:
            return None
        allowed = np.zeros(self._tokenizer.n_vocab, np.bool_)
        allowed[self._forced[0]] = True
        return allowed

    def accept(self, token_id: int) -> None:
        """Go on by one token."""
        if self._forced:
            self._forced = self._forced[1:]
            if not self._forced:
                self._close()
            return
        self._text += self._tokenizer.token_bytes(token_id, special=True)
        if self._end:
            self._count()
        elif self._is_at_begin:
            self._look_at_begin()
        if not self._end and not self._is_at_begin:
            self._look_for_control(token_id)

    def ahead(self) -> ReasoningBudget:
        """Return one in the same state, to go on with drafted tokens."""
        return copy.copy(self)

    def _open(self, end: str) -> None:
        self._end, self._text, self._is_at_begin = end, b"", False
        self._n_left = self._n_tokens
        if self._n_left <= 0:
            self._force()

    def _close(self) -> None:
        self._end, self._text = "", b""

    def _force(self) -> None:
        text = f"{self._message}{self._end}"
        self._forced = tuple(self._tokenizer.encode(text, add_bos=False, parse_special=True))

    def _count(self) -> None:
        """Count a token of the reasoning, unless the model ends it."""
        end = self._end.encode()
        if end in self._text:
            self._close()
            return
        self._n_left -= 1
        self._text = self._text[-len(end) - 3 :]  # 3: a character that is not whole
        is_between = _is_whole(self._text) and not _ends_in_begin_of(self._text, end)
        # where a mark or a character has begun, as many more tokens may complete it
        if self._n_left <= 0 and (is_between or self._n_left <= -len(end)):
            self._force()

    def _look_at_begin(self) -> None:
        """Find out whether the answer begins with a mark."""
        text = self._text.lstrip()
        for start, end in self._marks.items():
            if text.startswith(start):
                self._open(end)
                return
        self._is_at_begin = any(start.startswith(text) for start in self._marks)

    def _look_for_control(self, token_id: int) -> None:
        """Find a mark later in the answer, which ends with a control token."""
        self._text = self._text[-max(map(len, self._marks)) :]
        if self._is_harmony or self._tokenizer.is_control(token_id):
            for start, end in self._marks.items():
                if self._text.endswith(start):
                    self._open(end)
                    return


def _is_whole(text: bytes) -> bool:
    """Return whether bytes end with a whole character."""
    for n in range(1, min(4, len(text) + 1)):
        byte = text[-n]
        if byte < 0x80:
            return True
        if byte >= 0xC0:  # the first of a character of 2, 3 or 4 bytes
            return n >= (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4)
    return True


def _ends_in_begin_of(text: bytes, mark: bytes) -> bool:
    """Return whether bytes end with the begin of a mark."""
    return any(text.endswith(mark[:n]) for n in range(1, len(mark)))
