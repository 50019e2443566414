"""What ``fit`` says of the runner's memory is what the runner takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguf_hub.gguf.memory.layout import STATES, Limits
from gguf_hub.gguf.memory.states import N_CHECKPOINTS
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.hub.fit import Constraints, need_of
from gguf_hub.hub.survey.headers import facts_of_file
from gguf_hub.run.model.builder import ProgramBuilder
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.model.weights import read_model
from tests.arch_models import write_arch_model
from tests.synth import SMALL, TINY, Shape, write_mixtral

DENSE = Shape(
    n_layer=3, n_embd=256, n_head=4, n_head_kv=4, n_ff=768, n_expert=0, n_vocab=270, n_ctx=64
)
N_CTX, N_THREADS = 40, 2


@pytest.mark.parametrize("kv_type", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize(
    "name",
    ["gemma4-dense", "gemma4-e", "gemma4-moe", "deepseek2", "deepseek2-old", "glm4moe", "qwen3"],
)
def test_architectures_take_what_is_counted(tmp_path: Path, name: str, kv_type: str) -> None:
    """The cache to the byte, layer by layer; of the rest, areas that all models have."""
    path = write_arch_model(tmp_path / "model.gguf", name)
    need = need_of(
        facts_of_file(path), Constraints(n_ctx=N_CTX, kv_type=kv_type), n_threads=N_THREADS
    )
    limits = Limits(N_CTX, N_CTX, 1, N_THREADS, key_type=kv_type.upper(),
                    value_type=kv_type.upper())  # fmt: skip
    with GgufFile.open(path) as file:
        layout = ProgramBuilder(*read_model(file), limits).build().layout
    scratch_bytes = sum(
        area.size_bytes for area in layout.areas if area.array != "kv" and area.kind is None
    )
    assert need.kv_bytes == 2 * layout.sizes["kv"]
    assert 0.85 < need.scratch_bytes / scratch_bytes < 1.01


@pytest.mark.slow
@pytest.mark.parametrize("kv_type", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize(
    ("shape", "recipe"),
    [(TINY, "F32"), (TINY, "Q8_0"), (SMALL, "Q4_K_M"), (SMALL, "Q5_0"), (DENSE, "F16"),
     (DENSE, "Q6_K")],
    ids=lambda value: value if isinstance(value, str) else f"{value.n_embd}x{value.n_expert}",
)  # fmt: skip
def test_what_is_counted_is_what_a_prompt_writes(
    tmp_path: Path, shape: Shape, recipe: str, kv_type: str
) -> None:
    """Of activations in several forms those that weights read, and no others; the whole cache."""
    path = write_mixtral(tmp_path / "model.gguf", shape, recipe=recipe)
    need = need_of(
        facts_of_file(path), Constraints(n_ctx=N_CTX, kv_type=kv_type), n_threads=N_THREADS
    )
    types = {"key_type": kv_type.upper(), "value_type": kv_type.upper()}
    settings = ModelSettings(n_ctx=N_CTX, n_threads=N_THREADS, **types)
    with GgufFile.open(path) as file, Transformer.open(file, settings) as model:
        model.forward([1 + i % 200 for i in range(N_CTX)], 0)
        layout, memory = model._program.layout, model._memory
        unread = 0
        for area in layout.areas:
            values = getattr(memory, area.array)[area.offset : area.offset + area.n_elements]
            if area.kind is not None and not values.any():
                unread += area.size_bytes
        allocated = memory.n.nbytes + memory.f.nbytes + memory.q.nbytes
    assert need.kv_bytes == memory.kv.nbytes
    assert need.scratch_bytes == allocated - unread


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3", "gpt-oss", "gemma4-e"])
def test_windows_are_counted_with_a_batch(tmp_path: Path, name: str) -> None:
    path = write_arch_model(tmp_path / "model.gguf", name, keys={"context_length": 4096})
    need, longer = (
        need_of(facts_of_file(path), Constraints(n_ctx=n_ctx), n_threads=N_THREADS)
        for n_ctx in (2048, 4096)
    )
    settings = ModelSettings(n_ctx=2048, n_threads=N_THREADS)
    with GgufFile.open(path) as file, Transformer.open(file, settings) as model:
        assert need.kv_bytes == model._memory.kv.nbytes
    assert longer.kv_bytes < 2 * need.kv_bytes  # windows do not grow with the text


@pytest.mark.parametrize("name", ["lfm2", "nemotron_h", "qwen3next"])
def test_states_are_counted_with_their_copies_and_once(tmp_path: Path, name: str) -> None:
    path = write_arch_model(tmp_path / "model.gguf", name)
    need, longer = (
        need_of(facts_of_file(path), Constraints(n_ctx=n_ctx), n_threads=N_THREADS)
        for n_ctx in (N_CTX, 2 * N_CTX)
    )
    settings = ModelSettings(n_ctx=N_CTX, n_threads=N_THREADS)
    with GgufFile.open(path) as file, Transformer.open(file, settings) as model:
        areas = [area for area in model._program.layout.areas if area.name == STATES]
        state_bytes = sum(area.size_bytes for area in areas)
        cache_bytes = model._memory.kv.nbytes
    assert state_bytes > 0
    assert need.kv_bytes == cache_bytes + (1 + N_CHECKPOINTS) * state_bytes
    assert longer.kv_bytes - need.kv_bytes < cache_bytes  # a state does not grow with the text
    assert need.scratch_bytes < longer.scratch_bytes
