"""Layers that cache no more than their window: the same bits, and how far a text can go back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_hub.errors import UsageError
from gguf_hub.gguf.memory.cache import CHUNK
from gguf_hub.gguf.memory.layout import Limits
from gguf_hub.gguf.memory.sizes import LayerSizes
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.slot_windows import SlotWindows
from gguf_hub.run.model.transformer import Transformer
from tests.arch_models import N_VOCAB, write_arch_model

WITH_WINDOWS = ["gemma2", "gemma3", "gemma4-e", "gpt-oss", "cohere2", "olmo3"]
N_CTX, N_BATCH, WINDOW = 1024, 32, 6
LENGTH = CHUNK  # of a cache for a window of 6 and batches of 32
IDS = np.random.default_rng(3).integers(0, N_VOCAB, 700).tolist()

Open = Callable[..., Transformer]


@pytest.fixture
def opened(request: pytest.FixtureRequest, tmp_path: Path, kernels: None) -> Iterator[Open]:
    name = getattr(request, "param", "gemma3")
    path = write_arch_model(tmp_path / "model.gguf", name, keys={"context_length": N_CTX})
    models: list[Transformer] = []

    def open_(*, swa_full: bool = False, n_slots: int = 1, type_: str = "F16") -> Transformer:
        options = ModelSettings(
            n_ctx=N_CTX, n_batch=N_BATCH, n_threads=1, n_logits=None, n_slots=n_slots,
            key_type=type_, value_type=type_, swa_full=swa_full,
        )  # fmt: skip
        models.append(Transformer.open(GgufFile.open(path), options))
        return models[-1]

    yield open_
    for model in models:
        model.close()


@pytest.mark.slow
@pytest.mark.parametrize("type_", ["F16", "Q8_0"])
@pytest.mark.parametrize("opened", WITH_WINDOWS, indirect=True)
def test_logits_are_those_of_a_cache_for_all_positions(opened: Open, type_: str) -> None:
    short, full = opened(type_=type_), opened(swa_full=True, type_=type_)
    assert short.cache_size(N_CTX) < full.cache_size(N_CTX)
    expected = full.forward(IDS, 0, all_logits=True)
    np.testing.assert_array_equal(short.forward(IDS, 0, all_logits=True), expected)
    for at in (0, 1, 250, 251, 510, 699):  # token by token, from anywhere
        np.testing.assert_array_equal(short.forward(IDS[: at + 1], 0)[0], expected[at])


def test_sequences_side_by_side_have_the_same_bits(opened: Open) -> None:
    model = opened(n_slots=2)
    alone = model.forward(IDS[:300], 0)[0]
    model.forward(IDS[100:300], 0, slot=1)
    for i in range(300, 560):
        rows = [(0, IDS[i], i), (1, IDS[i], i - 100)]
        both = model.decode(rows)
    assert not np.array_equal(alone, both[0])
    np.testing.assert_array_equal(both[0], model.forward(IDS[:560], 0)[0])
    np.testing.assert_array_equal(both[1], model.forward(IDS[100:560], 0)[0])


def test_a_text_can_go_back_by_what_the_cache_is_longer_than_the_window(opened: Open) -> None:
    model = opened()
    model.forward(IDS[:600], 0)
    oldest = 600 - LENGTH + WINDOW - 1
    assert model.reusable(600) == 600
    assert model.reusable(oldest) == oldest
    assert model.reusable(oldest - 1) == 0
    with pytest.raises(UsageError, match="do not go back so far"):
        model.forward(IDS[:1], oldest - 1)
    again = model.forward(IDS[oldest:600], oldest)
    np.testing.assert_array_equal(again, model.forward(IDS[:600], 0))


def test_all_of_a_short_text_can_be_kept(opened: Open) -> None:
    model = opened()
    model.forward(IDS[:LENGTH], 0)
    assert [model.reusable(n) for n in (1, 100, LENGTH)] == [1, 100, LENGTH]


def test_a_cache_for_all_positions_goes_back_anywhere(opened: Open) -> None:
    model = opened(swa_full=True)
    model.forward(IDS, 0)
    assert model.reusable(3) == 3


@pytest.mark.parametrize("n", [100, 300, 600])
def test_saved_and_copied_caches_go_on_alike(opened: Open, n: int) -> None:
    model = opened(n_slots=3)
    model.forward(IDS[:n], 0)
    saved = model.save_cache(n)
    assert len(saved) == model.cache_size(n)
    expected = model.forward(IDS[n : n + 50], n, all_logits=True)
    model.forward(IDS[::-1], 0, slot=1)
    model.load_cache(saved, n, slot=1)
    model.copy_cache(1, 2, n)
    for slot in (1, 2):
        assert model.reusable(n, slot) == n
        found = model.forward(IDS[n : n + 50], n, all_logits=True, slot=slot)
        np.testing.assert_array_equal(found, expected)


def test_what_has_been_replaced_is_not_saved(opened: Open) -> None:
    model = opened(n_slots=2)
    model.forward(IDS[:600], 0)
    with pytest.raises(UsageError, match="do not go back so far"):
        model.save_cache(100)
    with pytest.raises(UsageError, match="do not go back so far"):
        model.copy_cache(0, 1, 100)


@pytest.mark.slow
@settings(max_examples=200)
@given(st.data())
def test_what_is_reusable_is_still_in_the_cache(data: st.DataObject) -> None:
    """Against a cache that remembers which position each place holds."""
    window, n_batch = data.draw(st.integers(1, 600)), data.draw(st.integers(1, 64))
    limits, layer = Limits(4096, n_batch, 1, 1), LayerSizes(window=window)
    length = limits.cache_length(layer)
    windows, places, position = SlotWindows([layer], limits), [-1] * length, 0
    for _ in range(data.draw(st.integers(1, 12))):
        n = data.draw(st.integers(1, n_batch))
        windows.seek(0, position)
        windows.reach([(0, position + n)])
        for p in range(position, position + n):
            places[p % length] = p
        for p in range(position, position + n):  # what each token sees is there
            assert all(places[s % length] == s for s in range(max(0, p - window + 1), p + 1))
        end = position + n
        back_to = data.draw(st.one_of(st.just(end), st.integers(0, end)))
        position = windows.reusable(back_to, 0)
