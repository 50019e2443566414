"""What a step can touch, and what that depends on: the words that ``extents`` proves with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gguf_hub.errors import ProgramError
from gguf_hub.run.kernels.vm.ops import N_TOKENS, SEQUENCE_SIZE, SEQUENCES

Block = tuple[int, int]
"""The first element of an area, and the one after its last."""


class Span(NamedTuple):
    """The most that the tokens of a call may be.

    Attributes:
        n_tokens: How many, of all sequences.
        end: Position of the last one of any sequence, plus one.
    """

    n_tokens: int
    end: int


@dataclass(frozen=True)
class Bounds:
    """The largest numbers that a call may bring.

    Attributes:
        span: Tokens and positions.
        counts: Index of the header -> its maximum, ``N_TOKENS`` aside.
        n_vocab: Token ids are below.
        n_threads: Threads that run the program.
        n_slots: Slots are below.
        n_sequences: Sequences that the tokens of a call may belong to.
        tables: Offset in ``n`` -> file offsets of matrices that stand there, 0 for none.
    """

    span: Span
    counts: Mapping[int, int] = field(default_factory=dict)
    n_vocab: int = 0
    n_threads: int = 1
    n_slots: int = 1
    n_sequences: int = 1
    tables: Mapping[int, Sequence[int]] = field(default_factory=dict)


class Extent(NamedTuple):
    """Some elements of an array that a step can touch.

    Attributes:
        array: ``n``, ``f``, ``q``, ``kv`` or ``w``.
        first: The first one.
        size: How many; nothing is touched at 0.
        use: For ``n``: what they mean. Elements of two meanings must not overlap.
    """

    array: str
    first: int
    size: int
    use: str = ""


class Call(NamedTuple):
    """What the extents of a step depend on besides its arguments.

    Attributes:
        type: The weight type or the types of the cache behind the kernel's name, or "".
        bounds: Of the call.
        span: Of the call.
    """

    type: str
    bounds: Bounds
    span: Span

    def sequences(self) -> Extent:
        """Return what a step reads to know positions and slots."""
        return Extent("n", SEQUENCES, SEQUENCE_SIZE * self.bounds.n_sequences, "sequences")

    def count(self, index: int) -> int:
        """Return the maximum of the header's element ``index``, a number of rows."""
        if index == N_TOKENS:
            return self.span.n_tokens
        require(index in self.bounds.counts, "element {} of the header is no count", index)
        return self.bounds.counts[index]


Extents = Iterator[Extent]


def require(condition: bool, problem: str, *values: object) -> None:
    """Raise unless ``condition`` holds; ``values`` are formatted into the text only then."""
    if not condition:
        raise ProgramError(problem.format(*values))
