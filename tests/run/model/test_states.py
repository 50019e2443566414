"""Layers with a state: what a cache holds is gone on with only where the state stands.

On tiny models of three kinds: a short convolution, Mamba-2, a gated delta net.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.api.server.scheduler import Scheduler
from gguf_hub.api.server.slots import EmbedSequence, TokenSequence
from gguf_hub.errors import UnsupportedGgufError, UsageError
from gguf_hub.gguf.memory.states import N_CHECKPOINTS
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.bench.measure import Plan, measure
from gguf_hub.run.generation import saved_prompt
from gguf_hub.run.generation.engine import Engine
from gguf_hub.run.generation.generation import Generation
from gguf_hub.run.generation.lookup import PromptLookup
from gguf_hub.run.generation.shift import ContextShift
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.model.weights import read_model
from gguf_hub.run.opening import open_model
from tests.arch_models import N_CTX, TOKENS, write_arch_model
from tests.run.generation.numbers import NUMBERS, text_after

NAMES = ("lfm2", "nemotron_h", "qwen3next")
IDS = list(TOKENS)


@pytest.fixture(scope="module")
def builder(kernels: None) -> KernelBuilder:
    """Link each kernel once for all models of this file."""
    return KernelBuilder()


@pytest.fixture(scope="module", params=NAMES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each kind."""
    return write_arch_model(tmp_path_factory.mktemp("model") / "model.gguf", request.param)


@pytest.fixture
def opened(path: Path, builder: KernelBuilder) -> Iterator[Callable[..., Transformer]]:
    """Open models that are closed after the test."""
    models: list[Transformer] = []

    def open_(**settings: Any) -> Transformer:
        options = {"n_ctx": N_CTX, "n_threads": 1, "n_logits": None, **settings}
        models.append(Transformer.open(GgufFile.open(path), ModelSettings(**options),
                                       builder=builder))  # fmt: skip
        return models[-1]

    yield open_
    for model in models:
        model.close()


@pytest.fixture
def model(opened: Callable[..., Transformer]) -> Transformer:
    """A model with three slots."""
    return opened(n_slots=3)


@pytest.fixture
def fresh(opened: Callable[..., Transformer]) -> Callable[[list[int]], np.ndarray]:
    """Logits after a text, computed from its start."""
    other = opened()
    return lambda tokens: other.forward(tokens, 0)[-1]


# -- keys ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "keys", "named"),
    [
        ("lfm2", {"shortconv.l_cache": 0}, "lfm2.shortconv.l_cache"),
        ("qwen35", {"ssm.conv_kernel": 0}, "qwen35.ssm.conv_kernel"),
        ("qwen35", {"ssm.time_step_rank": 0}, "qwen35.ssm.time_step_rank"),
        ("qwen35", {"ssm.group_count": 3}, "qwen35.ssm.group_count"),
        ("qwen35", {"ssm.state_size": 0}, "qwen35.ssm.state_size"),
        ("qwen35", {"ssm.inner_size": 60}, "qwen35.ssm.inner_size"),
        ("qwen35", {"ssm.inner_size": 2**31}, "qwen35.ssm.inner_size"),
        ("nemotron_h", {"ssm.inner_size": 129}, "nemotron_h.ssm.inner_size"),
        ("nemotron_h", {"ssm.state_size": 2**31}, "blk.0.ssm_in.weight"),
        ("qwen35", {"full_attention_interval": 0}, "blk.3.attn_qkv.weight"),
        ("qwen35", {"attention.recurrent_layers": [True]}, "blk.1.attn_q"),
        ("lfm2", {"attention.head_count_kv": [0, 0, 2, 0]}, "lfm2.attention.head_count_kv"),
        ("lfm2", {"attention.head_count_kv": [0, 0, 2, 0, 0]}, "blk.4.shortconv"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    name: str, keys: dict[str, Any], named: str, tmp_path: Path
) -> None:
    path = write_arch_model(tmp_path / "model.gguf", name, keys=keys)
    with GgufFile.open(path) as file, pytest.raises(UnsupportedGgufError) as caught:
        read_model(file)
    assert named in str(caught.value)


def test_flags_may_tell_which_layers_have_a_state(tmp_path: Path, builder: KernelBuilder) -> None:
    logits = []
    for i, keys in enumerate(({}, {"attention.recurrent_layers": [True, True, True, False],
                                   "full_attention_interval": 2})):  # fmt: skip
        path = write_arch_model(tmp_path / f"{i}.gguf", "qwen35", keys=keys)
        settings = ModelSettings(n_ctx=N_CTX, n_threads=1)
        with GgufFile.open(path) as file, Transformer.open(file, settings, builder=builder) as m:
            logits.append(m.forward(IDS, 0))
    np.testing.assert_array_equal(*logits)


# -- the model -------------------------------------------------------------------------------------


def test_position_0_begins_anew_whatever_was_computed(model: Transformer, fresh: Any) -> None:
    model.forward(IDS, 0)
    np.testing.assert_array_equal(model.forward(IDS[5:12], 0)[-1], fresh(IDS[5:12]))


def test_a_state_goes_on_where_it_stands_alone(model: Transformer, fresh: Any) -> None:
    model.forward(IDS[:10], 0)
    assert model.reusable(10) == 10
    assert model.reusable(9) == 0
    with pytest.raises(UsageError, match=r"position 9: the state of slot 0 cannot go back .* to 0"):
        model.forward(IDS[9:], 9)
    with pytest.raises(UsageError, match="position 11"):
        model.forward(IDS[11:], 11)
    np.testing.assert_array_equal(model.forward(IDS[10:], 10)[-1], fresh(IDS))


def test_a_checkpoint_is_gone_back_to(model: Transformer, fresh: Any) -> None:
    model.forward(IDS[:8], 0)
    model.checkpoint(8)
    model.forward(IDS[8:], 8)
    assert (model.reusable(len(IDS)), model.reusable(12), model.reusable(7)) == (len(IDS), 8, 0)
    for end in ([3, 4, 5], [9], IDS[8:]):  # again and again
        np.testing.assert_array_equal(model.forward(end, 8)[-1], fresh(IDS[:8] + end))


def test_checkpoints_of_what_was_overwritten_are_forgotten(model: Transformer) -> None:
    model.forward(IDS[:8], 0)
    model.checkpoint(8)
    model.forward(IDS[8:12], 8)
    model.checkpoint(12)
    model.forward([7], 8)
    assert (model.reusable(12), model.reusable(8)) == (9, 8)
    model.forward(IDS[:2], 0)
    assert (model.reusable(12), model.reusable(1)) == (2, 0)


def test_the_last_checkpoints_are_kept(model: Transformer) -> None:
    for i, token in enumerate(IDS[: N_CHECKPOINTS + 2]):
        model.forward([token], i)
        model.checkpoint(i + 1)
    kept = [n for n in range(1, N_CHECKPOINTS + 2) if model.reusable(n) == n]
    assert kept == list(range(3, N_CHECKPOINTS + 2))


def test_each_slot_has_its_own_state(model: Transformer, fresh: Any) -> None:
    texts = [IDS[:9], IDS[4:6], IDS[10:]]
    for slot, text in enumerate(texts):
        model.forward(text, 0, slot=slot)
    rows = [(slot, 11 + slot, len(text)) for slot, text in enumerate(texts)]
    for (slot, token, _), row in zip(rows[::-1], model.decode(rows[::-1]), strict=True):
        np.testing.assert_array_equal(row, fresh([*texts[slot], token]))
    parts = [(1, [3, 4], 3, 1), (0, IDS[4:7], 0, 1), (2, [5], len(texts[2]) + 1, 1)]
    found = model.forward_parts(parts)
    expected = [fresh([*texts[1], 12, 3, 4]), fresh(IDS[4:7]), fresh([*texts[2], 13, 5])]
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(UsageError, match="the state of slot 1 cannot go back"):
        model.decode([(0, 1, 10), (1, 1, 2)])


def test_a_failed_pass_leaves_no_state_to_go_on_with(model: Transformer, fresh: Any) -> None:
    model.forward(IDS[:8], 0)

    class Stopped(Exception):
        pass

    def stop(code: Any) -> None:
        raise Stopped

    run, model._machine.run = model._machine.run, stop  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        model.forward(IDS[8:], 8)
    model._machine.run = run  # type: ignore[method-assign]
    assert model.reusable(8) == 0
    np.testing.assert_array_equal(model.forward(IDS, 0)[-1], fresh(IDS))


def test_saved_caches_hold_the_state(model: Transformer, fresh: Any) -> None:
    model.forward(IDS[:9], 0)
    saved = model.save_cache(9)
    assert saved.size == model.cache_size(9)
    model.forward(IDS[3:], 0)
    with pytest.raises(UsageError, match="the state of slot 0 is no more there"):
        model.save_cache(9)
    model.load_cache(saved, 9, slot=2)
    np.testing.assert_array_equal(model.forward(IDS[9:], 9, slot=2)[-1], fresh(IDS))
    assert model.save_cache(0).size == model.cache_size(0) == 0


def test_copies_of_a_slot_go_on_alone(model: Transformer, fresh: Any) -> None:
    model.forward(IDS[:6], 0)
    model.checkpoint(6)
    model.forward(IDS[6:9], 6)
    model.copy_cache(0, 1, 9)
    np.testing.assert_array_equal(model.forward([5], 9)[-1], fresh([*IDS[:9], 5]))
    np.testing.assert_array_equal(model.forward(IDS[9:], 9, slot=1)[-1], fresh(IDS))
    assert model.reusable(8, slot=1) == 6  # its checkpoint came along
    model.copy_cache(1, 2, 6)
    np.testing.assert_array_equal(model.forward([2], 6, slot=2)[-1], fresh([*IDS[:6], 2]))
    with pytest.raises(UsageError):
        model.copy_cache(1, 2, 8)


def test_embeddings_begin_anew(model: Transformer) -> None:
    first = model.embed(IDS)
    model.forward(IDS[:3], 0)
    np.testing.assert_array_equal(model.embed(IDS), first)


def test_speed_is_measured_behind_a_text(model: Transformer) -> None:
    found = measure(model, Plan(n_prompt=4, n_gen=2, n_depth=5, repetitions=2))
    assert found.prompt is not None and len(found.prompt.seconds) == 2


# -- the engine ------------------------------------------------------------------------------------


def write(engine: Engine, text: Generation) -> list[int]:
    for _ in engine.stream(text):
        pass
    return text.tokens


def after(model: Transformer, prompt: list[int], n: int = 5, **more: Any) -> Generation:
    return text_after(prompt, model.n_ctx, max_tokens=n, **more)


@pytest.fixture
def expected(opened: Callable[..., Transformer]) -> Callable[[list[int]], list[int]]:
    """What is written after a prompt by an engine that knows of no other text."""
    other = opened()
    return lambda prompt: write(Engine(other), after(other, prompt))


def test_texts_are_those_of_a_cache_that_is_new(model: Transformer, expected: Any) -> None:
    """A turn more, its last answer in other words, the same again, an earlier one, another text."""
    engine = Engine(model)
    answered = write(engine, after(model, IDS[:12]))
    again = [*answered[:9], 3, 3, *IDS[12:18]]
    for prompt in ([*answered, 8, 9], again, again, IDS[:12], IDS[:6], IDS[4:], [1]):
        assert write(engine, after(model, prompt)) == expected(prompt)


@pytest.mark.parametrize("n_batch", [3, 64])
def test_what_a_chat_renders_otherwise_is_computed_from_the_checkpoint(
    opened: Any, n_batch: int
) -> None:
    model = opened(n_batch=n_batch)
    engine = Engine(model)
    write(engine, after(model, IDS[:12]))
    assert engine.cached[:12] == IDS[:12]
    text = after(model, [*IDS[:10], 2, 2, 2])
    write(engine, text)
    assert text.timings.n_cached == 8  # four before the end of the last prompt
    text = after(model, [*text.tokens, 4])
    write(engine, text)
    assert text.timings.n_cached == len(text.request.prompt) - 2  # the last token was not computed


def test_a_full_context_shifts_as_a_new_prompt(opened: Any) -> None:
    """Tokens that stay are computed again, for their state has read those that go."""
    small = opened(n_ctx=16)
    shift = ContextShift.after(IDS[:10], 3, 16, None)
    request = text_after(IDS[:10], 16, max_tokens=14).request
    text = Generation(request, NUMBERS, 16, shift=shift)
    tokens = write(Engine(small), text)
    assert len(tokens) == 24
    for n in range(17, 24):
        logits = small.forward(shift.window(tokens[:n]), 0)[-1]
        assert tokens[n] == logits.argmax()


def test_a_cut_cache_is_computed_again(model: Transformer, fresh: Any) -> None:
    engine = Engine(model)
    engine.prefill(IDS[:12])
    engine.keep(5)
    engine.settle()
    assert engine.cached == IDS[:5]
    assert model.reusable(5) == 5
    engine.keep(3)
    np.testing.assert_array_equal(engine.extend([9, 9]), fresh([*IDS[:3], 9, 9]))


def test_drafts_are_refused_by_name(path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be checked by architecture `") as caught:
        open_model(path, drafter=PromptLookup(4))
    assert "--lookup" in str(caught.value.hint)


def test_a_prompt_is_saved_and_read(opened: Any, tmp_path: Path, expected: Any) -> None:
    path, known = tmp_path / "saved", 0
    for prompt in (IDS[:12], IDS[:12], IDS[:16]):  # each run loads what the last one has saved
        model = opened()
        engine = Engine(model)
        if known:
            saved = saved_prompt.read(path, model, "id")
            model.load_cache(saved.cache, len(saved.tokens))
            engine.adopt(saved.tokens)
        text = after(model, prompt)
        assert write(engine, text) == expected(prompt)
        assert text.timings.n_cached == known
        known = model.reusable(len(prompt) - 1)
        assert known == len(prompt) - 4
        saved_prompt.write(path, engine.cached[:known], model, "id")


def test_texts_of_several_slots_are_those_of_one(model: Transformer, expected: Any) -> None:
    """Two share a beginning that a third has been computed from; embeddings come in between."""
    scheduler = Scheduler(model)
    failed: list[Exception] = []
    prompts = [IDS[:20], IDS[3:8], [*IDS[:20], 7], [*IDS[:18], 5, 6, 7], IDS[9:]]
    texts = [after(model, prompt) for prompt in prompts]
    for text in texts[:2]:
        scheduler.submit(TokenSequence(text, lambda delta: None, failed.append))
    for _ in range(4):
        scheduler.round()
    scheduler.submit(EmbedSequence(IDS, lambda hidden: None, failed.append))
    for text in texts[2:]:
        scheduler.submit(TokenSequence(text, lambda delta: None, failed.append))
    while not all(text.is_done for text in texts) and not failed:
        scheduler.round()
    assert not failed
    for prompt, text in zip(prompts, texts, strict=True):
        assert text.tokens == expected(prompt)
