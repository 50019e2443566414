"""Tokens of several sequences in one pass: steps that look at positions do each by its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gguf_hub.gguf.memory.layout import Limits
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.vm.machine import CompiledMachine
from gguf_hub.run.kernels.vm.ops import N_OUTPUT_PAIRS, N_OUTPUTS, N_PAIRS, step
from gguf_hub.run.kernels.vm.sequences import SequenceTokens, sequences_of, write_sequences
from tests.run.kernels.test_extents import model_of
from tests.synth import TINY


def test_neighbouring_tokens_of_a_slot_are_one_sequence() -> None:
    rows = [(1, 4), (1, 5), (0, 6), (1, 6), (1, 8), (2, 9)]
    assert sequences_of(rows) == [(1, 4, 2), (0, 6, 1), (1, 6, 1), (1, 8, 1), (2, 9, 1)]


def test_steps_at_positions_are_done_for_each_sequence() -> None:
    """A rotation and a scale by position besides the graph's: bits as of each one alone."""
    model = model_of(TINY, "F32", "merged", Limits(32, 8, 8, 2, n_slots=4))
    program, layout, config = model.program, model.program.layout, model.config
    width = config.n_head * config.head_dim
    added = (
        step("rotate", x=layout.queries, n_head=config.n_head, head_dim=config.head_dim,
             n_rot=config.rope.n_rot, is_neox=1, table=layout.rope_tables[0]),
        step("scale_by_position", x=layout.queries, width=width, scale=layout.scalars[-1], length=3,
             offset=1),
    )  # fmt: skip
    at = next(i for i, each in enumerate(program.steps) if each.kernel.startswith("rope_store"))
    program = replace(program, steps=(*program.steps[:at], *added, *program.steps[at:]))
    memory = program.memory([model.data])
    memory.f[layout.scalars[-1]] = 1
    model.prove(program.steps, program.bounds)
    ids, n_vocab = [5, 9, 7, 3, 8], program.bounds.n_vocab
    sequences = [SequenceTokens(2, 4, 1), SequenceTokens(0, 0, 3), SequenceTokens(3, 11, 1)]

    def logits(some: list[SequenceTokens], tokens: list[int]) -> np.ndarray:
        n, count = memory.n, len(tokens)
        write_sequences(n, some, layout.sizes["kv"])
        n[N_OUTPUTS], n[[N_PAIRS, N_OUTPUT_PAIRS]] = count, count * config.n_expert_used
        n[layout.ids : layout.ids + count], n[layout.rows : layout.rows + count] = (
            tokens, range(count),
        )  # fmt: skip
        machine.run(code)
        found = memory.f[layout.logits :][: count * n_vocab].reshape(count, n_vocab)
        return found.copy()

    with CompiledMachine(KernelBuilder(), memory, 2) as machine:
        code = machine.load(program.steps)
        alone = [
            logits([each], tokens)
            for each, tokens in zip(sequences, ([5], [9, 7, 3], [8]), strict=True)
        ]
        memory.kv[:] = 0
        together = logits(sequences, ids)
    np.testing.assert_array_equal(together, np.concatenate(alone))
    assert len({row.tobytes() for row in together}) == 5
