"""Tokens of several sequences on a GPU: a header for each, where positions matter."""

from __future__ import annotations

import numpy as np
import pytest

from gguf_hub.run.gpu.rows import ROW_HEADER, padded_rows, row_headers, steps_of_rows
from gguf_hub.run.kernels.vm.ops import (
    N_TOKENS,
    SEQUENCE_SIZE,
    SEQUENCES,
    Step,
    step,
)
from gguf_hub.run.kernels.vm.sequences import SequenceTokens, write_sequences

ALIKE = step("scale_rows", x=0, width=4, factor=9, count=N_TOKENS)
OWN = step("scale_by_position", x=0, width=4, scale=9, length=3, offset=0)


def order(*steps: Step) -> list[tuple[int | None, list[int]]]:
    """Headers, and where the steps behind each begin."""
    return [(row, [each.named["x"] for each in own]) for row, own in steps_of_rows(steps, 2)]


def test_the_header_of_all_tokens_stands_there_before_and_after() -> None:
    each = [(0, [0]), (1, [4])]
    assert order(ALIKE, ALIKE) == [(None, [0, 0])]
    assert order(ALIKE, OWN, ALIKE) == [(None, [0]), *each, (2, [0])]
    assert order(OWN, OWN, ALIKE, OWN) == [*each, *each, (2, [0]), *each, (2, [])]
    assert order(ALIKE, OWN) == [(None, [0]), *each, (2, [])]


def test_each_token_has_a_header() -> None:
    n = np.zeros(64, np.int64)
    write_sequences(n, [SequenceTokens(3, 7, 2), SequenceTokens(0, 5, 1)], 100)
    headers = row_headers(n, 4)
    assert headers.tolist() == [[1, 7, 3], [1, 8, 3], [1, 5, 0], [0, 0, 0], [3, 7, 3]]
    assert n[SEQUENCES : SEQUENCES + 10].tolist() == [0, 2, 7, 3, 300, 2, 1, 5, 0, 0]


@pytest.mark.parametrize("n_tokens", range(2, 257))
def test_headers_have_room_in_the_table_of_as_many_sequences(n_tokens: int) -> None:
    n_rows = padded_rows(n_tokens)
    assert n_tokens <= n_rows <= 1.25 * n_tokens
    assert ROW_HEADER * (n_rows + 1) <= SEQUENCE_SIZE * n_tokens
