"""``Llama`` answers as llama-cpp-python 0.3.36 does (``make_reference.py`` recorded it)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.api.llama import Llama
from tests.api.llama.make_reference import CALLS, ROPE, ROPE_CALL

REFERENCE = json.loads(Path(__file__).with_name("llama_cpp_python.json").read_text())["results"]

# another prompt by design: our llama-2 format begins without a blank (see run/chat/formats.py)
OTHER_PROMPT = {"chat", "tool"}


def plain(answer: Any) -> Any:
    """Leave out what differs from call to call."""
    names = ("id", "created", "model")
    if not isinstance(answer, dict):
        return answer
    return {key: value for key, value in answer.items() if key not in names}


def about(answer: Any) -> Any:
    """Let numbers differ as far as they do from machine to machine."""
    if isinstance(answer, dict):
        return {key: about(value) for key, value in answer.items()}
    if isinstance(answer, list):
        return [about(value) for value in answer]
    return pytest.approx(answer, abs=5e-3) if isinstance(answer, float) else answer


@pytest.mark.parametrize("name", [name for name in CALLS if name not in OTHER_PROMPT])
def test_the_answer_is_the_same(name: str, llm: Llama) -> None:
    method, arguments, options = CALLS[name]
    if method == "tokenize":
        arguments = [arguments[0].encode()]
    answer = getattr(llm, method)(*arguments, **options)
    assert plain(answer) == about(plain(REFERENCE[name]))
    if isinstance(answer, dict):
        assert list(answer) == list(REFERENCE[name])


@pytest.mark.parametrize("name", ROPE)
def test_the_position_embedding_is_stretched_the_same(name: str, opened: Any) -> None:
    model = opened(logits_all=True, **ROPE[name])
    choice = model("Once upon a time", **ROPE_CALL)["choices"][0]
    text, logprobs = REFERENCE[f"rope: {name}"]
    assert choice["text"] == text
    # far from what it was trained on the model is unsure, and rounding shows more
    assert choice["logprobs"]["token_logprobs"][1:] == pytest.approx(logprobs[1:], abs=0.03)


def shape(answer: Any) -> Any:
    """Keys and types, nothing of what they hold."""
    if isinstance(answer, dict):
        return {key: shape(value) for key, value in answer.items()}
    return [shape(value) for value in answer] if isinstance(answer, list) else type(answer)


@pytest.mark.parametrize("name", sorted(OTHER_PROMPT))
def test_the_shape_is_the_same_where_the_prompt_is_not(name: str, llm: Llama) -> None:
    method, arguments, options = CALLS[name]
    assert shape(getattr(llm, method)(*arguments, **options)) == shape(REFERENCE[name])


def test_embeddings_are_the_same(opened: Any) -> None:
    model = opened(embedding=True, pooling_type=1)
    answer = model.create_embedding(["Once upon a time", "Tom"])
    assert answer["usage"] == REFERENCE["embedding"]["usage"]
    for found, expected in zip(answer["data"], REFERENCE["embedding"]["data"], strict=True):
        assert found["index"] == expected["index"]
        assert np.allclose(found["embedding"], expected["embedding"], atol=5e-3)


def test_without_pooling_every_token_has_an_embedding(opened: Any) -> None:
    model = opened(embedding=True)
    assert np.array(model.embed("Once upon a time")).shape == (5, 64)
    lengths = np.linalg.norm(model.embed(["Tom", "a"], normalize=True)[0], axis=1)
    assert np.allclose(lengths, 1)
