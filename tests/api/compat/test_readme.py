"""Examples of llama-cpp-python's README (0.3.x), on the stand-in: only models' names are changed.

docs/llama-cpp-python.md lists them with those that cannot run here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.api.compat import llama_cpp as compat
from tests.hub_server import HubServer


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    compat.install()
    yield
    compat.uninstall()


@pytest.fixture
def path(embedded: Path) -> str:
    return str(embedded)


def test_high_level_api(path: str) -> None:
    from llama_cpp import Llama

    llm = Llama(
        model_path=path,
    )
    output = llm(
        "Q: Name the planets in the solar system? A: ",  # Prompt
        max_tokens=32,  # Generate up to 32 tokens, set to None to generate up to the end
        stop=["Q:", "\n"],  # Stop generating just before the model would generate a new question
        echo=True,  # Echo the prompt back in the output
    )  # Generate a completion, can also call create_completion
    assert set(output) == {"id", "object", "created", "model", "choices", "usage"}
    assert output["choices"][0]["text"].startswith("Q: Name the planets")


def test_pulling_models_from_the_hub(path: str, hub_server: HubServer) -> None:
    from llama_cpp import Llama

    files = {"tiny-q8_0.gguf": Path(path).read_bytes(), "README.md": b"x"}
    hub_server.add_repo("org/Tiny-GGUF", files)
    llm = Llama.from_pretrained(repo_id="org/Tiny-GGUF", filename="*q8_0.gguf", verbose=False)
    assert llm("Once", max_tokens=2)["usage"]["completion_tokens"] == 2


def test_chat_completion(path: str) -> None:
    from llama_cpp import Llama

    llm = Llama(model_path=path, chat_format="llama-2")
    answer = llm.create_chat_completion(
        messages=[
            {
                "role": "system",
                "content": "You are an assistant who perfectly describes images.",
            },
            {"role": "user", "content": "Describe this image in detail please."},
        ],
        max_tokens=16,
    )
    assert answer["object"] == "chat.completion"


def test_json_mode(path: str) -> None:
    from llama_cpp import Llama

    llm = Llama(model_path=path, chat_format="chatml", n_ctx=0)
    answer = llm.create_chat_completion(
        messages=[
            {
                "role": "system",
                "content": "You are a helpful assistant that outputs in JSON.",
            },
            {"role": "user", "content": "Who won the world series in 2020"},
        ],
        response_format={"type": "json_object"},
        temperature=0.7,
        seed=1,
        max_tokens=200,
    )
    assert answer["choices"][0]["message"]["content"].lstrip().startswith("{")


def test_json_schema_mode(path: str) -> None:
    from llama_cpp import Llama

    llm = Llama(model_path=path, chat_format="chatml")
    answer = llm.create_chat_completion(
        messages=[
            {
                "role": "system",
                "content": "You are a helpful assistant that outputs in JSON.",
            },
            {"role": "user", "content": "Who won the world series in 2020"},
        ],
        response_format={
            "type": "json_object",
            "schema": {
                "type": "object",
                "properties": {"team_name": {"type": "string", "maxLength": 40}},
                "required": ["team_name"],
            },
        },
        temperature=0.7,
    )
    assert set(json.loads(answer["choices"][0]["message"]["content"])) == {"team_name"}


def test_function_calling(path: str) -> None:
    from llama_cpp import Llama

    llm = Llama(model_path=path, chat_format="chatml-function-calling")
    answer = llm.create_chat_completion(
        messages=[
            {
                "role": "system",
                "content": "A chat between a curious user and an artificial intelligence assistant."
                " The assistant gives helpful, detailed, and polite answers to the user's"
                " questions. The assistant calls functions with appropriate input when necessary",
            },
            {"role": "user", "content": "Extract Jason is 25 years old"},
        ],
        tools=[
            {
                "type": "function",
                "function": {
                    "name": "UserDetail",
                    "parameters": {
                        "type": "object",
                        "title": "UserDetail",
                        "properties": {
                            "name": {"title": "Name", "type": "string", "maxLength": 20},
                            "age": {"title": "Age", "type": "integer"},
                        },
                        "required": ["name", "age"],
                    },
                },
            }
        ],
        tool_choice={"type": "function", "function": {"name": "UserDetail"}},
        seed=3,
    )
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert set(json.loads(call["function"]["arguments"])) == {"name", "age"}


@pytest.mark.filterwarnings("ignore:Llama. unsupported arguments are ignored")
def test_speculative_decoding(path: str) -> None:
    from llama_cpp import Llama
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    llama = Llama(
        model_path=path,
        draft_model=LlamaPromptLookupDecoding(num_pred_tokens=10),
    )
    assert llama("Once", max_tokens=3)["usage"]["completion_tokens"] == 3


def test_embeddings(path: str) -> None:
    from llama_cpp import Llama

    llm = Llama(model_path=path, embedding=True)
    one = llm.create_embedding("Hello, world!")
    several = llm.create_embedding(["Hello, world!", "Goodbye, world!"])
    assert len(one["data"]) == 1
    assert len(several["data"]) == 2


def test_adjusting_the_context_window(path: str) -> None:
    from llama_cpp import Llama

    assert Llama(model_path=path, n_ctx=2048).n_ctx() == 2048


def test_grammars_and_tokens(path: str) -> None:
    from llama_cpp import Llama, LlamaGrammar

    llm = Llama(model_path=path)
    grammar = LlamaGrammar.from_string('root ::= "yes" | "no"')
    assert llm("Is it?", grammar=grammar)["choices"][0]["text"] in ("yes", "no")
    tokens: list[Any] = llm.tokenize(b"Hello, world!")
    stream = llm.generate(tokens, top_k=40, top_p=0.95, temp=1.0, repeat_penalty=1.1)
    assert isinstance(llm.detokenize([next(stream)]), bytes)
