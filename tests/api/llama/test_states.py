"""``Llama`` on models that carry a state: each way back in a cache computes what a new one does."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.api.llama import Llama, LlamaRAMCache
from gguf_hub.errors import UsageError
from tests.arch_models import N_CTX, TOKENS, letters, write_arch_model

IDS = list(TOKENS)
PROMPT = "abc def ghi jkl"


@pytest.fixture(scope="module", params=["lfm2", "granitehybrid", "qwen3next"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("models") / "model.gguf"
    return write_arch_model(file, request.param, vocabulary=letters())


def opened(path: Path, **options: Any) -> Llama:
    return Llama(path, n_ctx=N_CTX, n_threads=1, verbose=False, **options)


@pytest.fixture
def llm(path: Path, kernels: None) -> Iterator[Llama]:
    with opened(path, logits_all=True) as model:
        yield model


@pytest.fixture
def other(path: Path, kernels: None) -> Iterator[Llama]:
    """A model that begins anew each time."""
    with opened(path, logits_all=True) as model:
        yield model


def after(llm: Llama, tokens: list[int]) -> np.ndarray:
    llm.reset()
    llm.eval(tokens)
    return np.array(llm.scores[len(tokens) - 1])


def answer(llm: Llama, prompt: str, n: int = 6) -> str:
    found: Any = llm.create_completion(prompt, max_tokens=n, temperature=0)
    return str(found["choices"][0]["text"])


def test_tokens_may_be_dropped_and_others_follow(llm: Llama, other: Llama) -> None:
    llm.eval(IDS[:12])
    llm.n_tokens = 5
    llm.eval([3, 4])
    np.testing.assert_array_equal(llm.scores[6], after(other, [*IDS[:5], 3, 4]))


def test_a_saved_state_is_gone_on_with(llm: Llama, other: Llama) -> None:
    llm.eval(IDS[:12])
    llm.n_tokens = 7  # the state has read more
    state = llm.save_state()
    llm.reset()
    llm.eval(IDS[::-1])
    llm.load_state(state)
    assert llm.n_tokens == 7
    llm.eval([9])
    np.testing.assert_array_equal(llm.scores[7], after(other, [*IDS[:7], 9]))


def test_generators_begin_anew_or_go_on(llm: Llama, other: Llama) -> None:
    first, again = (list(islice(llm.generate(IDS, temp=0.0), 5)) for _ in range(2))
    assert first == again == list(islice(other.generate(IDS, temp=0.0), 5))


def test_a_cache_of_states_changes_no_text(llm: Llama, other: Llama) -> None:
    llm.set_cache(LlamaRAMCache())
    written = answer(llm, PROMPT)
    for prompt in (PROMPT, PROMPT + written + " xy", "zz", PROMPT, PROMPT[:7]):
        other.reset()
        assert answer(llm, prompt) == answer(other, prompt)


def test_embeddings_do_not_depend_on_what_was_computed(path: Path, kernels: None) -> None:
    with opened(path, embedding=True) as llm:
        first = llm.embed(PROMPT)
        llm.embed("zz")
        assert llm.embed(PROMPT) == first


def test_a_draft_model_is_refused(path: Path) -> None:
    with pytest.raises(UsageError, match="drafts of tokens cannot be checked"):
        opened(path, draft_model=lambda ids, **more: np.array([1]))


@pytest.mark.slow
@pytest.mark.parametrize("swa_full", [None, False])
def test_windows_that_have_moved_on_are_computed_again(
    swa_full: bool | None, tmp_path: Path, kernels: None
) -> None:
    keys = {"context_length": 1024}
    path = write_arch_model(tmp_path / "model.gguf", "gemma3", keys=keys, vocabulary=letters())
    long, n_tail = IDS * 30, 40
    options = {"n_ctx": 1024, "n_batch": 32, "n_threads": 1, "verbose": False}
    with Llama(path, swa_full=swa_full, **options) as llm, Llama(path, **options) as new:
        llm.eval(long)
        kept = llm.context.engine.n_shared(long[:100])
        assert kept == (100 if swa_full is None else 0)
        for tokens in (long[:100] + IDS[:3], long[:-n_tail] + IDS[3:9], long[:50] + IDS * 10):
            expected = new.create_completion(tokens, max_tokens=5, temperature=0)
            found = llm.create_completion(tokens, max_tokens=5, temperature=0)
            assert found["choices"][0]["text"] == expected["choices"][0]["text"]
            new.reset()
