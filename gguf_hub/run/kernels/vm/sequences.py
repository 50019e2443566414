"""Which sequences the tokens of a call belong to, as steps read it.

A call has tokens of one sequence, such as a part of a prompt, or of several: neighbouring tokens
that follow one another in one slot are one. Steps that look at positions do all of them at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import UsageError
from gguf_hub.run.kernels.vm.ops import (
    N_SEQUENCES,
    N_TOKENS,
    POSITION,
    SEQUENCE_SIZE,
    SEQUENCES,
    SLOT,
)


class SequenceTokens(NamedTuple):
    """Tokens of a call that follow one another in one slot.

    Attributes:
        slot: Whose cache and state they go on with.
        position: Of the first one.
        n_tokens: How many.
    """

    slot: int
    position: int
    n_tokens: int

    @property
    def end(self) -> int:
        """The position after the last one."""
        return self.position + self.n_tokens


def sequences_of(rows: Iterable[tuple[int, int]]) -> list[SequenceTokens]:
    """Return the sequences that tokens, each a slot and a position, belong to, in order."""
    found: list[SequenceTokens] = []
    last_slot, end = -1, -1
    for slot, position in rows:
        if slot == last_slot and position == end:
            found[-1] = found[-1]._replace(n_tokens=found[-1].n_tokens + 1)
        else:
            found.append(SequenceTokens(slot, position, 1))
        last_slot, end = slot, position + 1
    return found


def positions_of(sequences: Sequence[SequenceTokens]) -> Sequence[int]:
    """Return the position of each token."""
    if len(sequences) == 1:
        return range(sequences[0].position, sequences[0].end)
    return [first + i for _, first, n_tokens in sequences for i in range(n_tokens)]


def parts_as_sequences(
    parts: Iterable[tuple[int, Sequence[int], int, int]],
) -> tuple[list[int], list[SequenceTokens], list[int]]:
    """Return the tokens of parts, what they belong to, and which of them want logits.

    Args:
        parts: (slot, token ids, position of the first, how many of the last want logits) of each.
    """
    tokens, sequences, outputs = list[int](), list[SequenceTokens](), list[int]()
    for slot, own, position, n_logits in parts:
        tokens += own
        sequences.append(SequenceTokens(slot, position, len(own)))
        outputs += range(len(tokens) - n_logits, len(tokens))
    return tokens, sequences, outputs


def ends_of(sequences: Iterable[SequenceTokens]) -> dict[int, int]:
    """Return slot -> the position after its last token.

    Raises:
        UsageError: Tokens of a slot do not follow one another.
    """
    ends: dict[int, int] = {}
    for slot, position, n_tokens in sequences:
        if position != (expected := ends.get(slot, position)):
            raise UsageError(
                f"position {position} of slot {slot}: expected {expected}, the one after the last "
                "row's"
            )
        ends[slot] = position + n_tokens
    return ends


def write_sequences(
    n: NDArray[np.int64], sequences: Sequence[SequenceTokens], cache_size: int
) -> None:
    """Write into the header and the table of ``n`` what steps read of a call's sequences.

    Args:
        n: The machine's integers.
        sequences: At least one, as many as the program's bounds allow.
        cache_size: Elements of ``kv`` from one slot to the next.
    """
    first, table = 0, list[int]()
    for slot, position, n_tokens in sequences:
        table += (first, n_tokens, position, slot, slot * cache_size)
        first += n_tokens
    n[N_TOKENS], n[N_SEQUENCES] = first, len(sequences)
    n[SLOT], n[POSITION], _ = sequences[0]
    n[SEQUENCES : SEQUENCES + len(table)] = table


def last_position(n: NDArray[np.int64]) -> int:
    """Return the largest position of a call's tokens."""
    end = SEQUENCES + SEQUENCE_SIZE * int(n[N_SEQUENCES])
    table = n[SEQUENCES:end].reshape(-1, SEQUENCE_SIZE)
    return int((table[:, 1] + table[:, 2]).max()) - 1
