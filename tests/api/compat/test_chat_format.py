"""``llama_cpp.llama_chat_format``: formats, templates and handlers that programs register."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.api.compat import llama_cpp as L
from gguf_hub.api.compat.llama_cpp import llama_chat_format as chat_format
from gguf_hub.errors import ChatTemplateError
from gguf_hub.run.chat import FORMATS

TURNS = [{"role": "user", "content": "Hi"}]
TEMPLATE = (
    "{% for m in messages %}{{ bos_token }}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture
def names() -> Iterator[None]:
    before = dict(chat_format.LlamaChatCompletionHandlerRegistry._chat_handlers)
    yield
    chat_format.LlamaChatCompletionHandlerRegistry._chat_handlers.clear()
    chat_format.LlamaChatCompletionHandlerRegistry._chat_handlers.update(before)


@pytest.fixture
def opened(embedded: Path, kernels: None) -> Iterator[Any]:
    models: list[L.Llama] = []

    def open_(**options: Any) -> L.Llama:
        models.append(L.Llama(embedded, n_ctx=256, verbose=False, **options))
        return models[-1]

    yield open_
    for model in models:
        model.close()


@pytest.mark.parametrize("function", sorted(chat_format._NAMES))
def test_each_function_writes_its_format(function: str) -> None:
    response = getattr(chat_format, function)(messages=TURNS)
    expected = FORMATS[chat_format._NAMES[function]].render(TURNS)
    assert (response.prompt, tuple(response.stop)) == (expected.text, expected.stop)
    assert not response.added_special


def test_a_template_is_a_formatter(opened: Any) -> None:
    formatter = chat_format.Jinja2ChatFormatter(TEMPLATE, "</s>", "<s>", stop_token_ids=[2])
    response = formatter(messages=TURNS, tools=None, unused=1)
    assert response.prompt == "<s>[user]Hi[assistant]"
    assert response.added_special and response.stop == ["</s>"]
    assert response.stopping_criteria is not None
    assert response.stopping_criteria([1, 2], None) and not response.stopping_criteria([2, 1], None)
    llm = opened()
    answer = formatter.to_chat_handler()(llama=llm, messages=TURNS, max_tokens=6, temperature=0.0)
    plain = llm.create_completion("[user]Hi[assistant]", max_tokens=6, temperature=0.0)
    assert answer["choices"][0]["message"]["content"] == plain["choices"][0]["text"]
    with pytest.raises(ChatTemplateError, match="line 1"):
        chat_format.Jinja2ChatFormatter("{% for %}", "", "")


def test_a_programs_own_format_is_used_by_its_name(opened: Any, names: None) -> None:
    asked: list[Any] = []

    @chat_format.register_chat_format("mine")
    def mine(messages: Any, **kwargs: Any) -> chat_format.ChatFormatterResponse:
        asked.append(messages)
        return chat_format.ChatFormatterResponse("Once upon a time", stop="e")

    llm = opened(chat_format="mine")
    assert llm.chat_format == "mine"
    answer: Any = llm.create_chat_completion(TURNS, max_tokens=12, temperature=0.0)
    plain = llm.create_completion("Once upon a time", max_tokens=12, temperature=0.0, stop="e")
    assert answer["choices"][0]["message"]["content"] == plain["choices"][0]["text"]
    chunks: Any = llm.create_chat_completion(TURNS, max_tokens=12, temperature=0.0, stream=True)
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text == plain["choices"][0]["text"]
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}},
              "required": ["a"]}  # fmt: skip
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    called: Any = llm.create_chat_completion(TURNS, tools=[tool], tool_choice="required")
    assert called["choices"][0]["finish_reason"] == "tool_calls"
    assert len(asked) == 3 and asked[0][0]["content"] == "Hi"


def test_a_programs_own_handler_gets_every_option(opened: Any, names: None) -> None:
    @chat_format.register_chat_completion_handler("echo")
    def echo(*, llama: Any, messages: Any, temperature: float, top_k: int, **others: Any) -> Any:
        return {"temperature": temperature, "top_k": top_k, "n": len(messages), **others}

    answer = opened(chat_format="echo").create_chat_completion(TURNS, top_k=7)
    assert (answer["temperature"], answer["top_k"], answer["min_p"]) == (0.2, 7, 0.05)
    registry = chat_format.LlamaChatCompletionHandlerRegistry()
    with pytest.raises(ValueError, match="registered already"):
        registry.register_chat_completion_handler("echo", echo)
    registry.unregister_chat_handler("echo")
    with pytest.raises(ValueError, match="no chat handler `echo`"):
        registry.unregister_chat_handler("echo")


def test_handlers_are_found_by_name(opened: Any) -> None:
    llm = opened(chat_format="chatml")
    handler = chat_format.get_chat_completion_handler("chatml")
    options: Any = {"max_tokens": 6, "temperature": 0.0}
    found = handler(llama=llm, messages=TURNS, **options)
    assert found["choices"] == llm.create_chat_completion(TURNS, **options)["choices"]
    with pytest.raises(chat_format.LlamaChatCompletionHandlerNotFoundException, match="chatmll"):
        chat_format.get_chat_completion_handler("chatmll")


def test_the_templates_of_a_file_have_handlers(opened: Any) -> None:
    llm = opened()
    names = list(llm._chat_handlers)
    assert names == ["chat_template.default"] and llm.chat_format == names[0]
    options: Any = {"max_tokens": 6, "temperature": 0.0}
    found = llm._chat_handlers.get(names[0])(llama=llm, messages=TURNS, **options)
    assert found["choices"] == llm.create_chat_completion(TURNS, **options)["choices"]
    assert llm._chat_handlers.get("none") is None


def test_formats_are_guessed_by_what_they_write() -> None:
    chatml = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    guess = chat_format.guess_chat_format_from_gguf_metadata
    assert guess({"tokenizer.chat_template": chatml}) == "chatml"
    assert guess({"tokenizer.chat_template": TEMPLATE}) is None
    assert guess({}) is None


def test_a_tokenizer_config_is_a_formatter() -> None:
    config = {"chat_template": TEMPLATE, "bos_token": "<s>", "eos_token": "</s>"}
    formatter = chat_format.hf_tokenizer_config_to_chat_formatter(config)
    response = formatter(messages=TURNS)
    assert response.prompt == "<s>[user]Hi<s>[assistant]"
    assert response.stop == ["</s>", "<s>"]
    with pytest.raises(ValueError, match="`bos_token`: expected a text, found None"):
        chat_format.hf_tokenizer_config_to_chat_formatter({**config, "bos_token": None})
