"""A model over several nodes computes what one process computes, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gguf_hub.errors import ContextFullError, TokenIdError, UnsupportedGgufError, UsageError
from gguf_hub.gguf.shards import open_gguf
from gguf_hub.run.cluster.hosts import LocalHost, ThreadStage, even_stages
from gguf_hub.run.cluster.model import ClusterModel, part_size
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.model.program import Stage
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from tests.arch_models import N_CTX, TOKENS, write_arch_model
from tests.arch_recipes import RECIPES
from tests.run.cluster.stages import opened, thread_host
from tests.synth import Shape, write_mixtral

SHAPE = Shape(
    n_layer=4, n_embd=256, n_head=8, n_head_kv=2, n_ff=256, n_expert=4, n_expert_used=2,
    n_vocab=300, n_ctx=512,
)  # fmt: skip
PROMPT = [int(i) for i in np.random.default_rng(1).integers(0, 300, 300)]


@pytest.fixture(scope="module")
def builder(kernels: None) -> KernelBuilder:
    return KernelBuilder()


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixtral(tmp_path_factory.mktemp("m") / "m.gguf", SHAPE, recipe="Q4_K_M", seed=7)


@pytest.mark.slow
@pytest.mark.parametrize("n_nodes", [1, 2, 3, 4])
def test_logits_are_those_of_one_process(mixture: Path, builder: KernelBuilder, n_nodes: int):
    host = thread_host(n_nodes, builder)
    with opened(mixture, host, n_slots=4, n_logits=None, n_threads=1) as (one, several):
        assert several.n_batch == min(512, 512 * n_nodes)
        for n, position, options in (
            (300, 0, {}),  # parts overlap
            (7, 300, {"all_logits": True}),
            (1, 307, {}),
            (5, 200, {"slot": 0}),  # back
            (90, 0, {"slot": 2}),
        ):
            found, expected = (m.forward(PROMPT[:n], position, **options) for m in (several, one))
            np.testing.assert_array_equal(found, expected)
        for model in (one, several):
            model.copy_cache(2, 1, 64)
        rows = [(2, 8, 90), (0, 9, 205), (0, 4, 206), (1, 3, 64)]  # of slot 0 two
        np.testing.assert_array_equal(several.decode(rows), one.decode(rows))
        np.testing.assert_array_equal(several.embed(PROMPT[:70]), one.embed(PROMPT[:70]))


def test_groups_of_rows_may_be_under_way_together(mixture: Path, builder: KernelBuilder) -> None:
    with opened(mixture, thread_host(2, builder), n_slots=4, n_threads=1, n_logits=4) as models:
        one, several = models
        for model in models:
            for slot in range(4):
                model.forward(PROMPT[slot : slot + 20], 0, slot=slot)
        groups = [[(0, 5, 20), (1, 6, 20)], [(2, 7, 20), (3, 8, 20)]]
        pending = [several.begin_decode(group) for group in groups]
        for group, each in zip(groups, pending, strict=True):
            np.testing.assert_array_equal(several.end_decode(each), one.decode(group))


def test_a_saved_cache_is_gone_on_with(mixture: Path, builder: KernelBuilder) -> None:
    with opened(mixture, thread_host(2, builder), n_slots=2, n_threads=1) as (_, several):
        several.forward(PROMPT[:80], 0)
        saved = several.save_cache(80)
        assert saved.size == several.cache_size(80)
        expected = several.forward([5], 80)
        several.load_cache(saved, 80, slot=1)
        np.testing.assert_array_equal(several.forward([5], 80, slot=1), expected)
        with pytest.raises(UsageError, match="another model"):
            several.load_cache(saved[:-2], 80)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_architecture_is_shared_out_or_refused(
    name: str, tmp_path: Path, builder: KernelBuilder
) -> None:
    path = write_arch_model(tmp_path / "model.gguf", name)
    settings = ModelSettings(n_ctx=N_CTX, n_batch=8, n_slots=2, n_logits=None, n_threads=1)
    with open_gguf(path) as file:
        host = thread_host(2, builder)
        if name in ("gemma3n", "gemma4-e"):  # embeddings of its own in each layer
            with pytest.raises(UnsupportedGgufError, match="cannot be shared out"):
                ClusterModel.open(file, settings, host=host)
            return
        with (
            Transformer.open(file, settings, builder=builder) as one,
            ClusterModel.open(file, settings, host=host) as several,
        ):
            for model in (one, several):
                model.forward(TOKENS[:12], 0)
                model.checkpoint(12)
                model.forward(TOKENS[12:16], 12)
            assert [m.reusable(n) for m in (one, several) for n in (5, 12, 16)] == 2 * [
                one.reusable(n) for n in (5, 12, 16)
            ]
            at = one.reusable(14)
            for model in (one, several):
                model.copy_cache(0, 1, at)
            found, expected = (
                m.forward(TOKENS[at:], at, all_logits=True, slot=1) for m in (several, one)
            )
            np.testing.assert_array_equal(found, expected)
            rows = [(1, 5, len(TOKENS)), (0, 7, 16)]
            np.testing.assert_array_equal(several.decode(rows), one.decode(rows))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda m: m.forward([], 0), UsageError),
        (lambda m: m.forward([1], -1), UsageError),
        (lambda m: m.forward([1], 0, slot=9), UsageError),
        (lambda m: m.forward([300], 0), TokenIdError),
        (lambda m: m.forward([1] * 65, 0), ContextFullError),
        (lambda m: m.forward([1, 2, 3], 0, all_logits=True), UsageError),
        (lambda m: m.decode([(0, -1, 0)]), TokenIdError),
        (lambda m: m.decode([(0, 5, 0), (0, 5, 2)]), UsageError),
    ],
)
def test_calls_that_cannot_be_are_refused_as_by_one_process(
    mixture: Path, builder: KernelBuilder, call: Callable, error: type[Exception]
) -> None:
    with opened(
        mixture, thread_host(2, builder), n_ctx=64, n_slots=2, n_threads=1, n_logits=2
    ) as models:
        messages = []
        for model in models:
            with pytest.raises(error) as caught:
                call(model)
            messages.append(str(caught.value))
            np.testing.assert_equal(model.forward([1], 0).shape, (1, 300))
        assert messages[0] == messages[1]


def test_stages_hold_the_tensors_of_the_model_once(mixture: Path, builder: KernelBuilder) -> None:
    with opened(mixture, thread_host(3, builder), n_threads=1) as (one, several):
        facts = [stage.remote.facts for stage in several.stages.placed]
        with open_gguf(mixture) as file:
            assert sum(f["weights_bytes"] for f in facts) == sum(
                info.size_bytes for info in file.tensors.values()
            )
        assert sum(f["active_bytes"] for f in facts) == one.active_bytes == several.active_bytes
        assert several.cache_bytes(100) == one.cache_bytes(100)


@pytest.mark.parametrize(("n_layer", "n_stages"), [(1, 1), (4, 3), (32, 5), (2, 4)])
def test_even_stages_cover_all_layers(n_layer: int, n_stages: int) -> None:
    stages = even_stages(n_layer, n_stages)
    assert [i for s in stages for i in range(s.first, s.end)] == list(range(n_layer))
    assert [s.has_embedding for s in stages] == [True] + [False] * (n_stages - 1)
    assert [s.has_head for s in stages] == [False] * (n_stages - 1) + [True]
    assert stages[0] == Stage(0, n_layer // n_stages, True, n_stages == 1)


@pytest.mark.parametrize("n_tokens", [1, 63, 64, 300, 5000])
@pytest.mark.parametrize("n_stages", [1, 2, 5])
def test_parts_of_a_prompt_are_no_larger_than_a_batch(n_tokens: int, n_stages: int) -> None:
    size = part_size(n_tokens, n_stages, 512)
    assert 1 <= size <= 512
    assert n_stages == 1 or size >= min(64, n_tokens)


def test_a_host_of_threads_is_a_local_host() -> None:
    host = LocalHost(["a"], ThreadStage)
    process = host.start("a")
    assert process.address[0] == "127.0.0.1"
    process.stop()
