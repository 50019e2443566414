"""States in a folder."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.api.llama import Llama, LlamaDiskCache
from gguf_hub.api.llama.disk_cache import _START, SIGNATURE
from gguf_hub.errors import GgufHubError

PROMPT = "Once upon a time there was a little girl who"


@pytest.fixture(scope="module")
def llm(embedded: Path, kernels: None) -> Iterator[Llama]:
    with Llama(embedded, n_ctx=128, verbose=False) as model:
        yield model


def answer(llm: Llama, cache: LlamaDiskCache | None, prompt: str = PROMPT) -> tuple[str, int]:
    """Return the text and how many tokens of the prompt needed no computing."""
    llm.reset()
    llm.set_cache(cache)
    loaded: list[int] = []
    llm.load_state = lambda state: (loaded.append(state.n_tokens), Llama.load_state(llm, state))[1]  # type: ignore[method-assign]
    try:
        found: Any = llm(prompt, max_tokens=6, temperature=0)
    finally:
        del llm.load_state
        llm.set_cache(None)
    return found["choices"][0]["text"], sum(loaded)


def test_another_process_goes_on_from_a_state(llm: Llama, tmp_path: Path) -> None:
    text, _ = answer(llm, None)
    assert answer(llm, LlamaDiskCache(tmp_path)) == (text, 0)
    again, n_loaded = answer(llm, LlamaDiskCache(str(tmp_path)))
    assert again == text
    assert n_loaded >= len(llm.tokenize(PROMPT.encode()))


@pytest.mark.slow
def test_a_state_of_another_model_is_not_used(llm: Llama, embedded: Path, tmp_path: Path) -> None:
    answer(llm, LlamaDiskCache(tmp_path))
    with Llama(embedded, n_ctx=128, type_k=8, type_v=8, verbose=False) as other:
        assert answer(other, LlamaDiskCache(tmp_path))[1] == 0
    assert len(list(tmp_path.iterdir())) == 2  # of the same tokens, one for each model


def test_the_least_recently_used_go_first(llm: Llama, tmp_path: Path) -> None:
    cache = LlamaDiskCache(tmp_path)
    tokens = [llm.tokenize(text.encode()) for text in ("One", "Two two", "Three three three")]
    llm.eval(tokens[0])
    state = llm.save_state()
    for key in tokens[:2]:
        cache[key] = state
    size_bytes = cache.cache_size // 2
    assert tokens[0] in cache  # looking changes nothing
    assert cache[tokens[0]].n_tokens == state.n_tokens  # using does
    cache.capacity_bytes = int(2.5 * size_bytes)
    cache[tokens[2]] = state
    assert cache[tokens[0]].input_ids.tolist() == state.input_ids.tolist()
    assert cache[tokens[2]].cache.tobytes() == state.llama_state
    assert len(list(tmp_path.iterdir())) == 2
    cache.capacity_bytes = 1
    cache[tokens[1]] = state
    assert cache.cache_size == 0
    with pytest.raises(KeyError):
        cache[tokens[1]]


def _cut(data: bytes) -> bytes:
    return data[:-1]


def _flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def _with_head(**changes: Any) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        n_head = _START.unpack_from(data)[2]
        start = _START.size
        head = {**json.loads(data[start : start + n_head]), **changes}
        body = json.dumps(head).encode() + data[start + n_head :]
        return struct.pack("<24sII", SIGNATURE, zlib.crc32(body), len(json.dumps(head))) + body

    return change


@pytest.mark.parametrize(
    "damage",
    [
        _cut, _flipped, lambda data: b"", lambda data: data[:40], lambda data: b"x" * len(data),
        _with_head(n_tokens=-1), _with_head(scores=[1e300, 1e300]), _with_head(scores="x"),
        _with_head(cache_types=[]), _with_head(n_key=0.5), _with_head(seed=None, model_id=None),
    ],
)  # fmt: skip
def test_damaged_files_are_as_good_as_none(
    llm: Llama, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    text, _ = answer(llm, LlamaDiskCache(tmp_path))
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert answer(llm, LlamaDiskCache(tmp_path)) == (text, 0)
    assert answer(llm, LlamaDiskCache(tmp_path))[1] > 0  # it was written anew


def test_files_of_others_are_left_alone(llm: Llama, tmp_path: Path) -> None:
    others = [tmp_path / "notes.txt", tmp_path / f"{'a' * 64}.state"]
    for path in others:
        path.write_text("of somebody else")
    cache = LlamaDiskCache(tmp_path, capacity_bytes=1)
    answer(llm, cache)
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_a_folder_that_cannot_be_written_costs_no_text(llm: Llama, tmp_path: Path) -> None:
    text, _ = answer(llm, None)
    cache = LlamaDiskCache(tmp_path / "cache")
    (tmp_path / "cache").rmdir()
    with pytest.warns(UserWarning, match=r"the state is not cached: cannot write .*cache"):
        assert answer(llm, cache) == (text, 0)
    with pytest.raises(GgufHubError, match="cannot make the cache folder"):
        LlamaDiskCache(Path(__file__) / "cache")
