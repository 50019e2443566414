"""Many texts as one small automaton: beginnings and ends that they share are there once.

Source: Daciuk, Mihov, Watson and Watson, "Incremental Construction of Minimal Acyclic Finite-State
Automata", Computational Linguistics 26 (2000), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterable

from gguf_hub.budget import spend

WordNode = tuple[tuple[tuple[int, int], ...], bool]
"""((byte, number of the node that it leads to), ...), and whether a word ends here."""

_STEP_BYTES = 100


def merge_words(words: Iterable[bytes]) -> list[WordNode]:
    """Return the least automaton that reads just these words; the last node is its start."""
    numbers: dict[WordNode, int] = {}
    path: list[tuple[list[tuple[int, int]], bool]] = [([], False)]  # along the word before
    before = b""

    def close(n_kept: int) -> None:
        """Number the nodes of the path from its end, down to ``n_kept`` bytes."""
        for byte in reversed(before[n_kept:]):
            edges, is_end = path.pop()
            path[-1][0].append((byte, numbers.setdefault((tuple(edges), is_end), len(numbers))))

    for word in sorted(set(words)):
        spend(_STEP_BYTES * (len(word) + 1))
        n_shared = _n_shared(before, word)
        close(n_shared)
        path += [([], False) for _ in word[n_shared:]]
        path[-1] = (path[-1][0], True)
        before = word
    close(0)
    return [*numbers, (tuple(path[0][0]), path[0][1])]


def _n_shared(a: bytes, b: bytes) -> int:
    """Return the length of the beginning that both have."""
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)
