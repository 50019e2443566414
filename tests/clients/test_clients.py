"""Client libraries against a server: those of the extra ``clients``, each skipped where absent.

``make clients`` installs and runs them. What they get is checked by shape, as the model tells
stories; ``tests/api/server`` has what each interface answers.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.api.server.running import Running
from tests.clients.conftest import NAME

pytestmark = pytest.mark.filterwarnings("ignore")  # of other packages

SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}


def chat_model(server: Running, kind: str, **options: Any) -> Any:
    """Return a chat model of LangChain that speaks one of the interfaces."""
    if kind == "ollama":
        langchain = pytest.importorskip("langchain_ollama")
        options["num_predict"] = options.pop("max_tokens")
        return langchain.ChatOllama(model=NAME, base_url=server.url, validate_model_on_init=True,
                                    **options)  # fmt: skip
    if kind == "anthropic":
        langchain = pytest.importorskip("langchain_anthropic")
        return langchain.ChatAnthropic(model=NAME, base_url=server.url, api_key="x",
                                       max_retries=0, **options)  # fmt: skip
    langchain = pytest.importorskip("langchain_openai")
    return langchain.ChatOpenAI(model=NAME, base_url=f"{server.url}/v1", api_key="x",
                                max_retries=0, use_responses_api=kind == "responses",
                                **options)  # fmt: skip


KINDS = ("ollama", "anthropic", "responses", "chat")


@pytest.mark.parametrize("kind", KINDS)
def test_langchain_asks_and_streams(
    server: Running, kind: str, loop: asyncio.AbstractEventLoop
) -> None:
    model = chat_model(server, kind, max_tokens=12)
    answer = model.invoke("Tell me a story.")
    assert answer.text
    assert answer.usage_metadata["output_tokens"] <= 12
    whole = None
    for chunk in model.stream("Tell me a story."):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None and whole.text
    assert loop.run_until_complete(model.ainvoke("Hi")).text


@pytest.mark.parametrize("kind", KINDS)
def test_langchain_gets_what_a_schema_says(server: Running, kind: str, person: Any) -> None:
    model = chat_model(server, kind, max_tokens=200).with_structured_output(
        person, method="json_schema"
    )
    assert isinstance(model.invoke("How old are you?").age, int)


@pytest.mark.parametrize("kind", ["anthropic", "responses", "chat"])
def test_langchain_calls_tools(server: Running, kind: str) -> None:
    tools = pytest.importorskip("langchain_core.tools")

    @tools.tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    model = chat_model(server, kind, max_tokens=200).bind_tools([add], tool_choice="any")
    whole = None
    for chunk in model.stream("Add 1 and 2"):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    for answer in (model.invoke("Add 1 and 2"), whole):
        (call,) = answer.tool_calls
        assert (call["name"], set(call["args"])) == ("add", {"a", "b"})


def test_langchain_embeds_through_ollama(server: Running) -> None:
    langchain = pytest.importorskip("langchain_ollama")
    model = langchain.OllamaEmbeddings(model=NAME, base_url=server.url)
    assert len(model.embed_query("a")) == server.service.model_info.n_embd


@pytest.mark.parametrize(
    ("route", "path"),
    [("openai", "/v1"), ("hosted_vllm", "/v1"), ("ollama_chat", ""), ("ollama", ""),
     ("anthropic", ""), ("lm_studio", "/v1"), ("llamafile", "/v1")],
)  # fmt: skip
def test_litellm_goes_every_route(server: Running, route: str, path: str) -> None:
    litellm = pytest.importorskip("litellm")
    asked: dict[str, Any] = {
        "model": f"{route}/{NAME}", "api_base": f"{server.url}{path}", "max_tokens": 8,
        "messages": [{"role": "user", "content": "Hi"}],
    }  # fmt: skip
    if not route.startswith("ollama"):
        asked["api_key"] = "x"
    assert litellm.completion(**asked).choices[0].message.content
    assert len(list(litellm.completion(**asked, stream=True))) > 1


def test_litellm_uses_responses(server: Running) -> None:
    litellm = pytest.importorskip("litellm")
    response = litellm.responses(model=f"openai/{NAME}", api_base=f"{server.url}/v1", api_key="x",
                                 input="Hi", max_output_tokens=8)  # fmt: skip
    assert response.output[0].content[0].text


@pytest.mark.parametrize("kind", ["OpenAIChatModel", "OpenAIResponsesModel", "AnthropicModel"])
def test_pydantic_ai_gets_text_and_data(server: Running, kind: str, person: Any) -> None:
    ai = pytest.importorskip("pydantic_ai")
    from importlib import import_module

    family, prefix = ("anthropic", "Anthropic") if kind[0] == "A" else ("openai", "OpenAI")
    providers = import_module(f"pydantic_ai.providers.{family}")
    provider_of = getattr(providers, f"{prefix}Provider")
    url = server.url if family == "anthropic" else f"{server.url}/v1"
    provider = provider_of(base_url=url, api_key="x")
    model = getattr(import_module(f"pydantic_ai.models.{family}"), kind)(NAME, provider=provider)
    assert ai.Agent(model, model_settings={"max_tokens": 12}).run_sync("Hi").output
    agent = ai.Agent(model, output_type=person, model_settings={"max_tokens": 300})
    assert isinstance(agent.run_sync("Hi").output.age, int)


def test_ollamas_client_gets_what_a_schema_says(server: Running) -> None:
    ollama = pytest.importorskip("ollama")
    with ollama.Client(host=server.url) as client:
        answer = client.chat(model=NAME, messages=[{"role": "user", "content": "Hi"}],
                             format=SCHEMA, options={"num_predict": 200})  # fmt: skip
    assert isinstance(json.loads(answer.message.content)["age"], int)
