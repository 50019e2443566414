"""A model cut in stages: the residual stream is all that passes from one to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gguf_hub.gguf.memory.layout import Limits
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.vm.machine import CompiledMachine
from gguf_hub.run.model.builder import ProgramBuilder
from gguf_hub.run.model.program import FULL_GRAPH, Program, Stage
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.model.weights import read_model
from tests.synth import Shape, write_mixtral

MIXTURE = Shape(
    n_layer=3, n_embd=256, n_head=8, n_head_kv=2, n_ff=256, n_expert=4, n_expert_used=2,
    n_vocab=300, n_ctx=64,
)  # fmt: skip
DENSE = Shape(
    n_layer=3, n_embd=64, n_head=4, n_head_kv=4, n_ff=96, n_expert=0, n_expert_used=0,
    n_vocab=300, n_ctx=64,
)  # fmt: skip
LIMITS = Limits(n_ctx=64, n_batch=16, n_outputs=4, n_threads=2, n_slots=3)
CUTS = {
    "in the middle": [Stage(0, 1, has_head=False), Stage(1, has_embedding=False)],
    "embeddings and head apart": [
        Stage(0, 0, has_head=False),
        Stage(0, 3, has_embedding=False, has_head=False),
        Stage(3, 3, has_embedding=False),
    ],
}
EMBEDDING, HEAD = "token_embd.weight", ("output.weight", "output_norm.weight")


@dataclass
class Part:
    """A stage in memory of its own."""

    program: Program
    model: Transformer
    memory: NDArray[np.float32]

    def residual(self, n_tokens: int) -> NDArray[np.float32]:
        """The residual stream, [n_tokens, D]."""
        start = self.program.residual
        return self.memory[start : start + n_tokens * self.model.config.n_embd]


@pytest.fixture(
    params=[(MIXTURE, "Q4_K_M"), (DENSE, "F16"), (DENSE, "Q8_0")],
    ids=["mixture", "dense floats", "dense"],
)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    shape, recipe = request.param
    return write_mixtral(tmp_path / "model.gguf", shape, recipe=recipe, seed=7)


@pytest.fixture
def open_stages(path: Path) -> Iterator[Callable[..., list[Part]]]:
    """Open stages of a model; what another one reads may be overwritten first."""
    models: list[Transformer] = []

    def open_(stages: Sequence[Stage], *, is_alone: bool = False) -> list[Part]:
        parts = []
        for stage in stages:
            file = GgufFile.open(path, is_mapped=False)
            if is_alone:
                file.data = data = file.data.copy()
                for name, info in file.tensors.items():
                    if not is_read(stage, name):
                        data[file.start_of(name) :][: info.size_bytes] = 0xFF
            config, weights = read_model(file)
            program = ProgramBuilder(config, weights, LIMITS, stage).build()
            memory = program.memory([file.data])
            machine = CompiledMachine(KernelBuilder(), memory, LIMITS.n_threads)
            models.append(Transformer(config, program, machine, LIMITS))
            parts.append(Part(program, models[-1], memory.f))
        return parts

    yield open_
    for model in models:
        model.close()


def is_read(stage: Stage, name: str) -> bool:
    """Whether a stage computes with a tensor."""
    if name.startswith("blk."):
        return int(name.split(".")[1]) in range(3)[stage.first : stage.end]
    return stage.has_embedding if name == EMBEDDING else stage.has_head


def run(parts: Sequence[Part], n_tokens: int, call: str, *args: Any, **options: Any) -> NDArray:
    """Run one stage after the other, the residual copied between their memories."""
    for before, part in zip([None, *parts], parts, strict=False):
        if before:
            part.residual(n_tokens)[:] = before.residual(n_tokens)
        logits = getattr(part.model, call)(*args, **options)
    return logits


@pytest.mark.parametrize("stages", CUTS.values(), ids=CUTS)
def test_stages_compute_the_logits_of_the_whole(
    open_stages: Callable[..., list[Part]], stages: list[Stage]
) -> None:
    whole, parts = open_stages([FULL_GRAPH]), open_stages(stages, is_alone=True)
    tokens = [1, 17, 250, 4, 99, 260, 31]
    for n, position, options in (
        (7, 0, {}), (3, 7, {"all_logits": True}), (5, 0, {"slot": 2}), (1, 10, {})
    ):  # fmt: skip
        found, expected = (
            run(stages, n, "forward", tokens[:n], position, **options) for stages in (parts, whole)
        )
        np.testing.assert_array_equal(found, expected)
    rows = [(2, 8, 5), (0, 9, 11)]  # one token of each of two sequences
    np.testing.assert_array_equal(run(parts, 2, "decode", rows), run(whole, 2, "decode", rows))


@pytest.mark.parametrize("stages", CUTS.values(), ids=CUTS)
def test_stages_share_out_steps_cache_and_weights(
    open_stages: Callable[..., list[Part]], stages: list[Stage]
) -> None:
    (whole,), parts = open_stages([FULL_GRAPH]), open_stages(stages)
    for amount in (
        lambda part: part.program.active_bytes,
        lambda part: part.program.layout.sizes["kv"],
        lambda part: sum("matmul" in step.kernel for step in part.program.steps),
    ):
        assert sum(map(amount, parts)) == amount(whole)
