"""Programs of several sequences: steps that look at positions are done for each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gguf_hub.gguf.memory.layout import Limits
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.vm.extents import Bounds
from gguf_hub.run.kernels.vm.machine import Code, CompiledMachine
from gguf_hub.run.kernels.vm.ops import (
    N_OUTPUT_PAIRS,
    N_OUTPUTS,
    N_PAIRS,
    N_TOKENS,
    POSITION,
    Step,
    step,
)
from gguf_hub.run.model.rows import write_row_program
from tests.run.kernels.test_extents import model_of
from tests.synth import TINY


def test_steps_at_positions_are_done_for_each_sequence() -> None:
    """A rotation and a scale by position besides the graph's: bits as of each one alone."""
    model = model_of(TINY, "F32", "merged", Limits(32, 4, 4, 2, n_slots=4))
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
    ids, positions, n_vocab = [5, 9, 7], [4, 0, 11], program.bounds.n_vocab

    def read(n_rows: int) -> np.ndarray:
        return memory.f[layout.logits :][: n_rows * n_vocab].reshape(n_rows, n_vocab).copy()

    with CompiledMachine(KernelBuilder(), memory, 2) as machine:
        alone = []
        code = machine.load(program.steps)
        for slot in range(3):
            machine.select_cache(layout.sizes["kv"] * slot)
            memory.n[[N_TOKENS, POSITION, N_OUTPUTS]] = 1, positions[slot], 1
            memory.n[[N_PAIRS, N_OUTPUT_PAIRS]] = config.n_expert_used
            memory.n[layout.ids], memory.n[layout.rows] = ids[slot], 0
            machine.run(code)
            alone.append(read(1)[0])
        memory.kv[:] = 0
        machine.select_cache(0)

        def load(steps: Sequence[Step], bounds: Bounds) -> Code:
            model.prove(steps, bounds)
            return machine.load(steps)

        rows = write_row_program(program, config, 4, load)
        rows.select([0, 1, 2], positions, memory.n)
        memory.n[[N_TOKENS, POSITION, N_OUTPUTS]] = 3, positions[0], 3
        memory.n[[N_PAIRS, N_OUTPUT_PAIRS]] = 3 * config.n_expert_used
        memory.n[layout.ids : layout.ids + 3], memory.n[layout.rows : layout.rows + 3] = (
            ids,
            range(3),
        )
        machine.run(rows.code)
    np.testing.assert_array_equal(read(3), alone)
    assert len({row.tobytes() for row in alone}) == 3
