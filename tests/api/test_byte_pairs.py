"""A model with a byte-pair vocabulary does all that one with SentencePiece does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.api.llama import Llama, LlamaGrammar
from gguf_hub.gguf.format import Field
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.runnable import find_obstacles
from gguf_hub.run.sampler.dry import find_breakers
from tests.run.tokenizer.small import bpe_metadata
from tests.synth import TINY, write_mixtral

MERGES = [f"Ġ {letter}" for letter in "abcdefghijklmnopqrstuvwxyz"] + [
    "h e", "Ġt he", "Ġ ðŁ", "ðŁ ¦", "ðŁ¦ Ļ", "Ã ©", "i n", "e r", "o n",
]  # fmt: skip
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
CONTROL = 3


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    special = {"<|begin|>": CONTROL, "<|eot_id|>": CONTROL}
    values = bpe_metadata(["ð Ł", *MERGES], special, pre="llama-bpe", bos_token_id=298)
    n_more = TINY.n_vocab - len(values["tokenizer.ggml.tokens"])
    values["tokenizer.ggml.tokens"][-2:-2] = [f"w{i}" for i in range(n_more)]
    values["tokenizer.ggml.token_type"][-2:-2] = [1] * n_more
    values |= {"tokenizer.ggml.eos_token_id": 299, "tokenizer.chat_template": TEMPLATE}
    fields = {key: Field.of(value) for key, value in values.items()}
    file = tmp_path_factory.mktemp("models") / "byte-pairs.gguf"
    return write_mixtral(file, TINY, layout="merged", fields=fields)


@pytest.fixture(scope="module")
def llm(path: Path, kernels: None) -> Iterator[Llama]:
    with Llama(path, n_ctx=128, verbose=False) as model:
        yield model


def test_nothing_keeps_it_from_running(path: Path) -> None:
    with GgufFile.open(path) as file:
        assert find_obstacles(file.header, file.tensors) == ()


def test_text_becomes_tokens_and_comes_back(llm: Llama) -> None:
    text = "the sea, é and 🦙<|eot_id|>"
    ids = llm.tokenize(text.encode(), special=False)
    assert ids[0] == llm.token_bos() == 298
    assert llm.detokenize(ids).decode() == text
    assert llm.tokenize(b"a<|eot_id|>", add_bos=False, special=True)[-1] == llm.token_eos() == 299


def test_a_text_follows_a_grammar_whose_characters_are_several_tokens(llm: Llama) -> None:
    grammar = LlamaGrammar.from_string('root ::= " 🦙é漢" [ab] [ab] "\\n"')
    answer: Any = llm.create_completion("the", max_tokens=40, temperature=1.0, grammar=grammar)
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["text"][:4] == " 🦙é漢"
    schema = json.dumps(
        {"type": "object", "properties": {"é": {"enum": ["🦙"]}}, "required": ["é"]}
    )
    answer = llm.create_completion(
        "the", max_tokens=60, temperature=0, grammar=LlamaGrammar.from_json_schema(schema)
    )
    assert json.loads(answer["choices"][0]["text"]) == {"é": "🦙"}


def test_a_stream_joins_to_the_whole_text(llm: Llama) -> None:
    options: dict[str, Any] = {"max_tokens": 40, "temperature": 0, "logit_bias": {"299": -100}}
    whole: Any = llm.create_completion("the sea", **options)
    chunks: Any = llm.create_completion("the sea", stream=True, **options)
    assert "".join(c["choices"][0]["text"] for c in chunks) == whole["choices"][0]["text"]


def test_a_conversation_begins_once(llm: Llama) -> None:
    answer: Any = llm.create_chat_completion([{"role": "user", "content": "hi"}], max_tokens=1)
    assert answer["usage"]["prompt_tokens"] == len(["<|begin|>", "h", "i", "<|eot_id|>"])


def test_breakers_of_sequences_are_found(llm: Llama) -> None:
    tokenizer = llm.tokenizer_
    (line_feed,) = tokenizer.encode("\n", add_bos=False)
    assert find_breakers(["\n"], tokenizer) == {line_feed: [()]}
