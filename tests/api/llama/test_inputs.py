"""What callers give is checked: nothing wrong is taken for something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.api.llama import Llama
from gguf_hub.api.llama.parts import LlamaChatCompletionHandlerNotFoundException
from gguf_hub.errors import GgufHubError, UsageError
from tests.api.llama.test_model import USER, text

TOOL = {"type": "function", "function": {"name": "a", "parameters": {}}}
Use = Callable[[Any], Any]


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        (b"Once", "expected text or token ids, found bytes"),
        (bytearray(b"Once"), "expected text or token ids, found bytearray"),
        (["403", "407"], "expected a token id at position 0, found str"),
        ([403, 407.2], "expected a token id at position 1, found float"),
        (["Once", "Once"], "expected a token id at position 0, found str"),
        (None, "expected text or token ids, found None"),
    ],
    ids=str,
)
def test_a_prompt_is_text_or_token_ids(llm: Llama, prompt: Any, problem: str) -> None:
    with pytest.raises(TypeError, match=f"prompt: {problem}"):
        llm(prompt, max_tokens=2)


@pytest.mark.parametrize(
    "use",
    [
        lambda llm: llm.eval(["a"]),
        lambda llm: next(llm.generate(b"Once")),
        lambda llm: llm.detokenize([1.5]),
        lambda llm: llm.detokenize([300], prev_tokens="a"),
        lambda llm: llm.tokenize(5),
    ],
)
def test_so_are_other_tokens_and_texts(llm: Llama, use: Use) -> None:
    with pytest.raises(TypeError, match="expected"):
        use(llm)


def test_ids_may_be_numpys_and_none_are_nothing_to_compute(llm: Llama) -> None:
    ids = llm.tokenize(b"Once")
    options: dict[str, Any] = {"max_tokens": 3, "temperature": 0}
    assert text(llm(np.array(ids), **options)) == text(llm(ids, **options))
    n_tokens = llm.n_tokens
    llm.eval([])
    assert llm.n_tokens == n_tokens


def test_offsets_count_characters_of_several_tokens(llm: Llama) -> None:
    prompt = "é 🙂 x"
    options: dict[str, Any] = {"echo": True, "logprobs": 0, "max_tokens": 3, "temperature": 0}
    whole = llm(prompt, **options)["choices"][0]
    offsets = whole["logprobs"]["text_offset"]
    assert offsets[:9] == [0, 1, 2, 3, 3, 3, 3, 4, 5]  # as llama-cpp-python 0.3.36 says
    parts = [c["choices"][0]["logprobs"] for c in llm(prompt, stream=True, **options)]
    assert [n for part in parts if part for n in part["text_offset"]] == offsets


def test_bytes_of_tokens_are_the_same_after_any_others(llm: Llama) -> None:
    (token,) = llm.tokenize(b"ha", add_bos=False)
    for previous in (None, [], [1], [403], [1, 403]):
        assert llm.detokenize([token], prev_tokens=previous) == b" ha"
        assert llm.detokenize([1, token], prev_tokens=previous) == b"ha"


@pytest.mark.parametrize(
    ("stop", "error", "problem"),
    [
        ([b"time"], TypeError, "stop: expected a text at position 0, found bytes"),
        (b"time", TypeError, "stop: expected texts, found bytes"),
        (["x", None], TypeError, "stop: expected a text at position 1, found None"),
        ([""], ValueError, "stop: expected a text at position 0, found an empty one"),
    ],
)
def test_stops_are_texts(llm: Llama, stop: Any, error: type[Exception], problem: str) -> None:
    with pytest.raises(error, match=problem):
        llm("Once", max_tokens=2, stop=stop)
    with pytest.raises(error, match=problem):
        llm.create_chat_completion(USER, max_tokens=2, stop=stop)


def whole(ids: Any, logits: Any) -> Any:
    return logits.astype(np.float64)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda x: x[:10], r"expected 512 logits .* found float32 of shape \(10,\)"),
        (lambda x: np.zeros(600, np.float32), r"found float32 of shape \(600,\)"),
        (lambda x: x.astype(np.int64), "found int64"),
        (lambda x: list(x), "found list"),
        (lambda x: None, "found NoneType"),
        (lambda x: x * np.nan, "found nan"),
        (lambda x: x * 0 + np.inf, "found inf"),
        (lambda x: np.full_like(x, -np.inf), "it left no token"),
    ],
    ids=["short", "long", "int64", "list", "none", "nan", "inf", "no-token"],
)
def test_a_logits_processor_that_is_wrong_is_named(
    llm: Llama, change: Callable[[Any], Any], problem: str
) -> None:
    def bad(ids: Any, logits: Any) -> Any:
        return change(logits)

    with pytest.raises(ValueError, match=f"logits processor `bad`: .*{problem}"):
        llm("Once", max_tokens=2, logits_processor=[whole, bad])
    assert text(llm("Once", max_tokens=2, temperature=0, logits_processor=[whole]))


@pytest.mark.parametrize(
    "use",
    [
        lambda path: Llama(path.parent),
        lambda path: Llama(__file__),
        lambda path: Llama(path, n_ctx=-1),
        lambda path: Llama(path, chat_format="{{ raise_exception('no') }}").create_chat_completion(
            USER
        ),
        lambda path: Llama(path).create_chat_completion(
            USER, tools=[TOOL], tool_choice={"type": "function", "function": {"name": "b"}}
        ),
    ],
    ids=["folder", "no-gguf", "n_ctx", "template", "tool"],
)
def test_what_is_a_value_error_there_is_one_here(
    stories: Path, kernels: None, use: Callable[[Path], Any]
) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        use(stories)
    assert isinstance(caught.value, GgufHubError)


def test_an_unknown_chat_format_is_named_with_those_there_are(stories: Path) -> None:
    with pytest.raises(
        LlamaChatCompletionHandlerNotFoundException, match=r"no chat format `nope`.*chatml.*zephyr"
    ) as caught:
        Llama(stories, n_ctx=32, chat_format="nope")
    assert isinstance(caught.value, UsageError)


@pytest.mark.parametrize(
    ("use", "problem"),
    [
        (lambda llm: llm("x", temperature="0"), "temp: expected a number in .* found '0'"),
        (lambda llm: llm("x", top_k=1.5), "top_k: expected a whole number in .* found 1.5"),
        (lambda llm: llm("x", repeat_penalty=-1), r"repeat_penalty: expected \(0, inf\), found -1"),
        (lambda llm: llm("x", repeat_penalty=0), r"repeat_penalty: expected \(0, inf\), found 0"),
        (lambda llm: llm("x", min_p=-1), r"min_p: expected \[0, 1\], found -1"),
        (
            lambda llm: Llama(llm.model_path, n_ctx=256.0),
            "n_ctx: expected a whole number, found 256.0",
        ),
        (
            lambda llm: Llama(llm.model_path, n_batch="8"),
            "n_batch: expected a whole number, found '8'",
        ),
        (
            lambda llm: Llama(llm.model_path, pooling_type=5),
            r"pooling_type: .*4 \(RANK\), found 5",
        ),
        (lambda llm: llm.load_state(None), "state: expected what `save_state` returns, found None"),
        (
            lambda llm: llm.create_chat_completion(USER, response_format="json"),
            "response_format: expected an object, found 'json'",
        ),
        (
            lambda llm: llm.create_chat_completion(USER, response_format={"type": "json_schema"}),
            "response_format: expected a schema under `json_schema.schema`, found none",
        ),
    ],
)
def test_wrong_options_say_what_was_expected_and_found(llm: Llama, use: Use, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        use(llm)
