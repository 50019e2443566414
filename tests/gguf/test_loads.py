"""One judgement of what loads: ``inspect`` says of each odd file what happens, there and here.

What llama.cpp does was tried with llama-cpp-python 0.3.36 on these changes of stories260K, file by
file: it loaded the file and continued "Once upon" as the published model does, or it did not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub import Llama
from gguf_hub.errors import GgufHubError
from gguf_hub.gguf.format import Field, TensorSpec, ValueType
from gguf_hub.gguf.inspection import inspect
from gguf_hub.gguf.reader import GgufFile, map_file
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.writer import write_gguf

T, N = "tokenizer.ggml.", 512
CONTINUED = " a time, there was a little g"
V = ValueType
Changes = dict[str, Field | None]


def u32(value: int) -> Field:
    return Field(V.UINT32, value)


def array(values: Any, dtype: Any) -> Field:
    return Field.of(np.array(values, dtype))


LAYERS = 5
ALIKE: dict[str, Changes] = {
    "as it is": {},
    "bos beyond the vocabulary": {f"{T}bos_token_id": u32(600)},
    "eos beyond the vocabulary": {f"{T}eos_token_id": u32(600)},
    "unknown beyond all": {f"{T}unknown_token_id": u32(2**32 - 1)},
    "padding beyond the vocabulary": {f"{T}padding_token_id": u32(600)},
    "end of turn beyond the vocabulary": {f"{T}eot_token_id": u32(600)},
    "no scores": {f"{T}scores": None},
    "no types": {f"{T}token_type": None},
    "neither": {f"{T}scores": None, f"{T}token_type": None},
    "whole numbers as scores": {f"{T}scores": array(np.zeros(N), np.int32)},
    "key heads for each layer": {"llama.attention.head_count_kv": array([4] * LAYERS, np.uint32)},
    "key heads, signed": {"llama.attention.head_count_kv": array([4] * LAYERS, np.int32)},
    "heads for each layer": {"llama.attention.head_count": array([8] * LAYERS, np.uint32)},
    "widths for each layer": {"llama.feed_forward_length": array([172] * LAYERS, np.uint32)},
    "a template in an array": {"tokenizer.chat_template": Field.of(["{{ messages[0].content }}"])},
    "a smaller vocab_size": {"llama.vocab_size": u32(500)},
    "a larger vocab_size": {"llama.vocab_size": u32(600)},
}
"""Loads there and here, with the same words."""
HERE_ONLY: dict[str, Changes] = {
    "eos signed": {f"{T}eos_token_id": Field(V.INT32, 2)},
    "eos of 64 bits": {f"{T}eos_token_id": Field(V.UINT64, 2)},
    "context of 64 bits": {"llama.context_length": Field(V.UINT64, 512)},
    "epsilon of 64 bits": {"llama.attention.layer_norm_rms_epsilon": Field(V.FLOAT64, 1e-5)},
    "types unsigned": {f"{T}token_type": array([2, 3, 3] + [6] * 256 + [1] * (N - 259), np.uint32)},
    "types of a byte": {f"{T}token_type": array([2, 3, 3] + [6] * 256 + [1] * (N - 259), np.int8)},
    "scores of unsigned": {f"{T}scores": array(np.zeros(N), np.uint32)},
    "key heads of 64 bits": {"llama.attention.head_count_kv": array([4] * LAYERS, np.uint64)},
}
"""llama.cpp insists on one type of number; we read any."""
NOWHERE: dict[str, Changes] = {
    "a flag that is a number": {f"{T}add_bos_token": Field(V.UINT8, 1)},
    "a width for each layer": {"llama.embedding_length": array([64] * LAYERS, np.uint32)},
    "key heads that differ": {"llama.attention.head_count_kv": array([4, 4, 4, 4, 2], np.uint32)},
    "too many key heads": {"llama.attention.head_count_kv": array([4] * 6, np.uint32)},
    "too few key heads": {"llama.attention.head_count_kv": array([4] * 4, np.uint32)},
    "key heads of one layer": {"llama.attention.head_count_kv": array([4], np.uint32)},
    "an unknown tokenizer": {f"{T}model": Field.of("xyz")},
    "no tokens": {f"{T}tokens": None},
    "too few scores": {f"{T}scores": array(np.zeros(N - 5), np.float32)},
    "scores that are text": {f"{T}scores": Field.of("x")},
    "too few types": {f"{T}token_type": array([1] * (N - 5), np.int32)},
}


@pytest.fixture(scope="module")
def stories(data: Path) -> GgufFile:
    return GgufFile.open(data / "models" / "stories260K.f32.gguf")


@pytest.fixture
def write(stories: GgufFile, tmp_path: Path) -> Callable[..., Path]:
    def call(changes: Changes, *more: tuple[TensorSpec, bytes]) -> Path:
        path = tmp_path / "changed.gguf"
        fields = {**stories.fields, **changes}
        tensors = [(info, stories.tensor_bytes(name)) for name, info in stories.tensors.items()]
        kept = {key: field for key, field in fields.items() if field is not None}
        write_gguf(path, kept, [*tensors, *more])
        return path

    return call


def loads(path: Path) -> dict[str, bool | None]:
    found = inspect(map_file(path), str(path)).compatibility.loaders
    return {loader.name: loader.loads for loader in found}


def continued(path: Path) -> str:
    with Llama(path, n_ctx=64, verbose=False) as llm:
        return str(llm("Once upon", max_tokens=8, temperature=0)["choices"][0]["text"])


@pytest.mark.parametrize("name", ALIKE)
def test_what_llama_cpp_runs_runs_here_with_the_same_words(name: str, write: Any) -> None:
    path = write(ALIKE[name])
    assert set(loads(path).values()) == {True}
    assert continued(path) == CONTINUED


@pytest.mark.parametrize("name", HERE_ONLY)
def test_what_is_only_of_another_type_runs_here_alone(name: str, write: Any) -> None:
    path = write(HERE_ONLY[name])
    assert list(loads(path).values()) == [True, False, False]
    assert continued(path) == CONTINUED


@pytest.mark.parametrize("name", NOWHERE)
def test_what_nobody_runs_is_called_so(name: str, write: Any) -> None:
    path = write(NOWHERE[name])
    assert list(loads(path).values()) == [False, False, False]
    with pytest.raises(GgufHubError):
        continued(path)


def test_arrays_longer_than_the_vocabulary(write: Any, stories: GgufFile) -> None:
    for name in ("scores", "token_type"):
        values = stories.fields[T + name].value
        path = write({T + name: Field.of(np.append(values, values[-1:]))})
        assert set(loads(path).values()) == {True}
        assert continued(path) == CONTINUED


def test_a_tensor_that_nobody_asks_for(write: Any) -> None:
    path = write({}, (TensorSpec("zzz.weight", (8,), QuantType.F32), bytes(32)))
    assert list(loads(path).values()) == [False, False, False]


def test_two_tokens_of_the_same_text(write: Any, stories: GgufFile) -> None:
    texts = list(stories.fields[f"{T}tokens"].value)
    path = write({f"{T}tokens": Field.of([*texts[:-1], texts[400]])})
    assert list(loads(path).values()) == [True, False, False]
    assert continued(path) == CONTINUED


def test_a_model_without_a_vocabulary_takes_token_ids(write: Any) -> None:
    path = write({f"{T}model": None})
    loaders = inspect(map_file(path), str(path)).compatibility.loaders
    assert [loader.loads for loader in loaders] == [True, False, False]
    assert "token ids" in loaders[0].reason


def test_bytes_behind_the_last_tensor_do_not_matter(write: Any) -> None:
    path = write({})
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(1000))
    assert set(loads(path).values()) == {True}
    path.write_bytes(whole[:-1])
    assert list(loads(path).values()) == [False, False, False]
