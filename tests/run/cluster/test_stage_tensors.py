"""A stage computes with its own tensors alone: a machine may have no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.cluster.stage import Batch, StageModel, stage_tensors
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.model.program import Stage
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from tests.arch_models import N_CTX, TOKENS, write_arch_model
from tests.arch_recipes import RECIPES

USUAL = {"output_norm", "output"}
CUTTABLE = [name for name, recipe in RECIPES.items()
            if set(recipe.other.split()) - USUAL and "per_layer" not in recipe.other]  # fmt: skip
"""Models with tensors beside the layers that not all have."""
SETTINGS = ModelSettings(n_ctx=N_CTX, n_threads=1)
STAGES = (Stage(0, 1, has_head=False), Stage(1, has_embedding=False))


@pytest.mark.parametrize("name", ["qwen3", *CUTTABLE])
def test_a_stage_reads_no_tensor_of_another(name: str, tmp_path: Path, kernels: None) -> None:
    path, builder = write_arch_model(tmp_path / "model.gguf", name), KernelBuilder()
    batch = Batch(TOKENS, [0], [0], n_outputs=1)
    with GgufFile.open(path) as file, Transformer.open(file, SETTINGS, builder=builder) as whole:
        expected = whole.forward(TOKENS, 0)
    residual = None
    for stage in STAGES:
        with (
            only(path, stage) as file,
            StageModel.open_stage(file, stage, SETTINGS, builder=builder) as model,
        ):
            residual = model.compute(batch, residual)
    assert residual is not None
    np.testing.assert_array_equal(residual.ravel(), expected.ravel())


def only(path: Path, stage: Stage) -> GgufFile:
    """Open a file in which all other tensors are not numbers."""
    file = GgufFile.open(path, is_mapped=False)
    file.data = data = file.data.copy()
    for name in file.tensors.keys() - set(stage_tensors(file, stage)):
        data[file.start_of(name) :][: file.tensors[name].size_bytes] = 0xFF
    return file
