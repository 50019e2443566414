"""What ``fit`` says of the runner's memory is what the runner takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguf_hub.gguf.reader import GgufFile
from gguf_hub.hub.fit.runner import HEADER, Limits, areas, kind_of, kv_elements
from gguf_hub.hub.survey.headers import facts_of_file
from gguf_hub.run.kernels.quantize.activations import ACTIVATION_OF
from gguf_hub.run.kernels.vm import ops
from gguf_hub.run.model import program
from gguf_hub.run.model.weights import read_model
from tests.synth import SMALL, TINY, Shape, write_mixtral

DENSE = Shape(
    n_layer=3, n_embd=256, n_head=4, n_head_kv=4, n_ff=768, n_expert=0, n_vocab=270, n_ctx=64
)
ODD = Shape(
    n_layer=1, n_embd=96, n_head=3, n_head_kv=1, n_ff=160, n_expert=5, n_vocab=259, n_ctx=50
)


@pytest.mark.parametrize(("layout", "kv_type"), [("split", "f16"), ("merged", "q8_0")])
@pytest.mark.parametrize("n_ctx", [64, 50])
@pytest.mark.parametrize("limits", [Limits(32, 1), Limits(50, 4), Limits(3, 2, 3)])
@pytest.mark.parametrize("shape", [TINY, SMALL, DENSE, ODD], ids=["tiny", "small", "dense", "odd"])
def test_formulas_take_what_the_program_takes(
    tmp_path: Path, shape: Shape, limits: Limits, layout: str, kv_type: str, n_ctx: int
) -> None:
    path = write_mixtral(tmp_path / "model.gguf", shape, layout=layout, sparse=True)
    facts = facts_of_file(path)
    with GgufFile.open(path) as file:
        config, weights = read_model(file)
        kv = {"key_type": kv_type.upper(), "value_type": kv_type.upper()}
        own = program.Limits(n_ctx, limits.n_batch, limits.n_outputs, limits.n_threads, **kv)
        # norms of a sparse file are zeros, but they are there
        sizes = program.ProgramBuilder(config, weights, own).build().sizes
    predicted = dict.fromkeys("nfq", 0)
    for area in areas(facts.shape, limits):
        predicted[area.array] += area.n_elements
    predicted["kv"] = kv_elements(facts.shape, n_ctx, kv_type)
    assert predicted == sizes


def test_kinds_of_activations_are_the_runners() -> None:
    assert {type_: kind_of(type_) for type_ in ACTIVATION_OF} == ACTIVATION_OF
    assert ops.HEADER == HEADER
