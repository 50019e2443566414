"""Steps on tokens of several sequences, as a GPU does them: token by token where positions matter.

The CPU's steps read the table of sequences. Those of a GPU read one position and one slot in the
header, and treat the tokens of a call as neighbours in that slot's cache. So what looks at
positions is done once for each token, and before each ``set_row`` writes the header that it reads.
Each is done for all tokens before the next step, so keys and values are there when attention reads
them.

Steps are written for some number of tokens and run fewer, too: those of the others see no tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gguf_hub.run.kernels.vm.ops import N_SEQUENCES, SEQUENCE_SIZE, SEQUENCES, Step

ROW_HEADER = 3
"""How many numbers ``set_row`` reads: tokens, position and slot."""


def row_headers(n: NDArray[np.int64], n_rows: int) -> NDArray[np.int64]:
    """Return what ``set_row`` reads before each token, and last before what treats all alike.

    Args:
        n: Header and table of sequences of a call.
        n_rows: Tokens that steps are written for; those that the call lacks are no tokens.

    Returns:
        (tokens, position, slot) of each, [n_rows + 1, 3].
    """
    table = n[SEQUENCES : SEQUENCES + SEQUENCE_SIZE * int(n[N_SEQUENCES])]
    rows = [
        (1, position + i, slot)
        for _, n_tokens, position, slot, _ in table.reshape(-1, SEQUENCE_SIZE).tolist()
        for i in range(n_tokens)
    ]
    headers = np.zeros((n_rows + 1, ROW_HEADER), np.int64)
    headers[: len(rows)] = rows
    headers[n_rows] = len(rows), *rows[0][1:]
    return headers


def padded_rows(n_tokens: int) -> int:
    """Return for how many tokens steps are written that so many use: a quarter more at most."""
    size = max(1, (1 << (n_tokens.bit_length() - 1)) // 4)
    return -(-n_tokens // size) * size


def steps_of_rows(
    steps: Sequence[Step], n_rows: int
) -> Iterator[tuple[int | None, Sequence[Step]]]:
    """Yield steps for tokens of several sequences, and which header is to be set before them.

    That is a token's number; ``n_rows`` for the header of all, which stands there at the beginning
    and at the end, as the steps may be a part of a program; None where it stands already.
    """
    of_all: int | None = None
    alike: list[Step] = []
    for step in steps:
        strides = _STRIDES.get(step.name)
        if strides is None:
            alike.append(step)
            continue
        if alike:
            yield of_all, alike
        of_all, alike = n_rows, []
        for row in range(n_rows):
            yield row, [_shift(step, strides(step.named), row)]
    if alike or of_all is not None:
        yield of_all, alike


def _shift(step: Step, strides: dict[str, int], row: int) -> Step:
    """Return a step for the token ``row`` further on."""
    at = step.named
    return step.with_arguments(**{name: at[name] + row * size for name, size in strides.items()})


def _rope_store(at: dict[str, int]) -> dict[str, int]:
    n_head_kv, queries = at["n_head_kv"], at["n_head"] * at["head_dim"]
    keys, values = n_head_kv * at["head_dim"], n_head_kv * at["value_dim"]
    return {"q0": queries, "k0": keys, "v0": values, "table": at["n_rot"]}


def _attention(at: dict[str, int]) -> dict[str, int]:
    return {"q0": at["n_head"] * at["head_dim"], "y": at["n_head"] * at["value_dim"]}


def _mamba2_scan(at: dict[str, int]) -> dict[str, int]:
    inner = at["n_head"] * at["head_dim"]
    width = inner + 2 * at["n_group"] * at["n_state"]
    return {"x": width, "dt": at["dt_stride"], "y": inner}


def _delta_scan(at: dict[str, int]) -> dict[str, int]:
    width, stride = at["n_head"] * at["head_dim"], at["stride"]
    keys = 2 * at["n_head_k"] * at["head_dim"]
    return {"x": keys + width, "beta": stride, "alpha": stride, "y": width}


_STRIDES: dict[str, Callable[[dict[str, int]], dict[str, int]]] = {
    "scale_by_position": lambda at: {"x": at["width"]},
    "rope_store": _rope_store,
    "attention": _attention,
    "causal_conv": lambda at: {"x": at["stride"], "y": at["width"]},
    "mamba2_scan": _mamba2_scan,
    "delta_scan": _delta_scan,
}
"""Step that looks at positions -> by argument how far tokens lie apart."""
