"""Programs shared among devices: the same bits, whoever computes which layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.gguf.memory.layout import Limits
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from tests.arch_models import N_CTX, TOKENS, write_arch_model
from tests.arch_recipes import RECIPES
from tests.run.gpu.host_part import open_shared

LIMITS = Limits(n_ctx=N_CTX, n_batch=8, n_outputs=8, n_threads=1, n_slots=3)
SETTINGS = ModelSettings(n_ctx=N_CTX, n_batch=8, n_threads=1, n_logits=8, n_slots=3)

PLACEMENTS: dict[str, dict[str, Any]] = {
    "all": {"n_gpu_layers": 99},
    "no output": {"n_gpu_layers": 2},
    "last": {"n_gpu_layers": 1},
    "experts on the CPU": {"n_gpu_layers": 99, "n_cpu_moe": 99},
    "two": {"n_gpu_layers": 99, "shares": (1, 2)},
    "some experts": {"n_gpu_layers": 2, "n_cpu_moe": 2, "shares": (1, 1)},
}


@pytest.fixture(scope="module")
def builder(kernels: None) -> KernelBuilder:
    """Link each kernel once for all models of this file."""
    return KernelBuilder()


def answers(model: Transformer) -> list[np.ndarray]:
    """Whatever a model does with its caches: batches, single tokens, slots, copies, states."""
    found = [model.forward(TOKENS[:10], 0, all_logits=False)]
    found += [model.forward([token], 10 + i) for i, token in enumerate(TOKENS[10:13])]
    found.append(model.forward(TOKENS[5:9], 0, all_logits=True, slot=2))
    found.append(model.decode([(0, 5, 13), (2, 7, 4)]))
    model.checkpoint(14, 0)
    model.copy_cache(0, 1, 14)
    found.append(model.decode([(1, 9, 14), (0, 11, 14), (2, 3, 5)]))
    saved = model.save_cache(6, 2)
    model.forward(TOKENS[:3], 0, slot=2)
    model.load_cache(saved, 6, 2)
    found.append(model.forward([8, 9], 6, slot=2))
    found.append(model.decode([(2, 4, 8), (2, 6, 9), (0, 1, 15), (2, 7, 10)]))
    found.append(model.forward_parts([(2, [5, 6, 7], 11, 2), (0, [2], 16, 1), (1, [9], 15, 0)]))
    found += [model.embed(TOKENS[:4], 1)]
    return found


THOROUGH = ("llama-moe", "gemma4-e", "gemma4-moe", "qwen35moe", "nemotron_h_moe", "deepseek2")
CASES = [
    (name, how)
    for i, name in enumerate(RECIPES)
    for j, how in enumerate(PLACEMENTS)
    if name in THOROUGH or (i - j) % 3 == 0
]
"""All placements of some models, and a third of them, in turns, of the others."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "how"), CASES)
def test_any_placement_gives_the_same_bits(
    name: str, how: str, builder: KernelBuilder, tmp_path: Path
) -> None:
    file = GgufFile.open(write_arch_model(tmp_path / "model.gguf", name))
    with Transformer.open(file, SETTINGS, builder=builder) as model:
        expected = answers(model)
    with open_shared(file, builder, LIMITS, **PLACEMENTS[how]) as shared:
        found = answers(shared)
    for want, have in zip(expected, found, strict=True):
        np.testing.assert_array_equal(have, want)
