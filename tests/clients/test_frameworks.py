"""Frameworks and command-line tools against a server, each skipped where it is absent.

Agents get scripted answers (``Script``), so that what they do with calls is seen to the end.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.api.server.running import Running
from tests.clients.conftest import NAME, Script

pytestmark = pytest.mark.filterwarnings("ignore")  # of other packages

ADD = '{"name": "add", "arguments": {"a": 1, "b": 2}}'
AGE = json.dumps({"age": 7})


def openai_client(server: Running) -> Any:
    openai = pytest.importorskip("openai")
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0)


@pytest.mark.parametrize("kind", ["chat", "responses", "anthropic", "ollama"])
def test_langgraphs_agent_calls_a_tool(server: Running, script: Script, kind: str) -> None:
    agents, tools = map(pytest.importorskip, ("langchain.agents", "langchain_core.tools"))
    from tests.clients.test_clients import chat_model

    called: list[tuple[int, int]] = []

    @tools.tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        called.append((a, b))
        return a + b

    script.answers = [f"I add. {ADD}", "It is 3."]
    agent = agents.create_agent(chat_model(server, kind, max_tokens=100), [add])
    messages = agent.invoke({"messages": [("user", "Add 1 and 2")]})["messages"]
    assert [type(m).__name__ for m in messages] == ["HumanMessage", "AIMessage", "ToolMessage",
                                                    "AIMessage"]  # fmt: skip
    assert called == [(1, 2)]
    assert (messages[2].content, messages[-1].text) == ("3", "It is 3.")
    assert "3" in json.dumps(script.bodies[1]) and len(script.bodies) == 2


def test_langgraphs_agent_streams_its_calls(server: Running, script: Script) -> None:
    agents, tools = map(pytest.importorskip, ("langchain.agents", "langchain_core.tools"))
    from tests.clients.test_clients import chat_model

    @tools.tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    script.answers = [ADD, "It is 3."]
    agent = agents.create_agent(chat_model(server, "chat", max_tokens=100), [add])
    asked = {"messages": [("user", "Add 1 and 2")]}
    texts = [chunk.text for chunk, _ in agent.stream(asked, stream_mode="messages")]
    assert "".join(texts).endswith("It is 3.") and len(texts) > 3


@pytest.mark.parametrize("mode", ["TOOLS", "JSON", "JSON_SCHEMA", "MD_JSON", "RESPONSES_TOOLS"])
def test_instructor_fills_models(server: Running, script: Script, person: Any, mode: str) -> None:
    instructor = pytest.importorskip("instructor")
    client = instructor.from_openai(openai_client(server), mode=getattr(instructor.Mode, mode))
    # without a schema in the request, the model has to be told
    script.answers = {"JSON": [AGE], "MD_JSON": [f"```json\n{AGE}\n```"]}.get(mode, [])
    found = client.chat.completions.create(
        model=NAME, max_tokens=200, max_retries=0, response_model=person,
        messages=[{"role": "user", "content": "How old are you?"}],
    )  # fmt: skip
    assert isinstance(found.age, int)


def test_instructor_streams_partial_models(server: Running, person: Any) -> None:
    instructor = pytest.importorskip("instructor")
    client = instructor.from_openai(openai_client(server), mode=instructor.Mode.TOOLS)
    *_, last = client.chat.completions.create_partial(
        model=NAME, max_tokens=200, max_retries=0, response_model=person,
        messages=[{"role": "user", "content": "How old are you?"}],
    )  # fmt: skip
    assert isinstance(last.age, int)


def language_model(server: Running, **options: Any) -> Any:
    dspy = pytest.importorskip("dspy")
    route = options.pop("route", "openai")
    return dspy.LM(f"{route}/{NAME}", api_base=f"{server.url}/v1", api_key="x", max_tokens=200,
                   cache=False, num_retries=0, **options)  # fmt: skip


@pytest.mark.parametrize(
    ("adapter", "answer"),
    [("JSONAdapter", '{"answer": "four"}'),
     ("ChatAdapter", "[[ ## answer ## ]]\nfour\n\n[[ ## completed ## ]]")],
)  # fmt: skip
def test_dspy_predicts(server: Running, script: Script, adapter: str, answer: str) -> None:
    dspy = pytest.importorskip("dspy")
    script.answers = [answer]
    with dspy.context(lm=language_model(server), adapter=getattr(dspy, adapter)()):
        assert dspy.Predict("question -> answer")(question="2 + 2?").answer == "four"


@pytest.mark.parametrize(("kind", "route"), [("chat", "openai"), ("responses", "openai"),
                                             ("text", "text-completion-openai")])  # fmt: skip
def test_dspy_asks_each_interface(server: Running, kind: str, route: str) -> None:
    (answer,) = language_model(server, model_type=kind, route=route)("Once upon a time")
    assert answer if isinstance(answer, str) else answer["text"]


def test_dspys_agent_calls_a_tool(server: Running, script: Script) -> None:
    dspy = pytest.importorskip("dspy")

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    def step(thought: str, tool: str, arguments: str) -> str:
        return json.dumps({"next_thought": thought, "next_tool_name": tool,
                           "next_tool_args": json.loads(arguments)})  # fmt: skip

    script.answers = [step("I add.", "add", '{"a": 1, "b": 2}'), step("Done.", "finish", "{}"),
                      '{"reasoning": "1 + 2", "answer": "3"}']  # fmt: skip
    with dspy.context(lm=language_model(server), adapter=dspy.JSONAdapter()):
        found = dspy.ReAct("question -> answer", tools=[add])(question="1 + 2?")
    assert (found.answer, found.trajectory["observation_0"]) == ("3", 3)


def smol_model(server: Running) -> Any:
    smolagents = pytest.importorskip("smolagents")
    return smolagents.OpenAIModel(NAME, api_base=f"{server.url}/v1", api_key="x", max_tokens=200)


def test_smolagents_generates_and_streams(server: Running) -> None:
    model = smol_model(server)
    turns = [{"role": "user", "content": [{"type": "text", "text": "Tell me a story."}]}]
    assert model.generate(turns).content
    assert sum(len(delta.content or "") for delta in model.generate_stream(turns))


def test_smolagents_agent_calls_a_tool(server: Running, script: Script) -> None:
    smolagents = pytest.importorskip("smolagents")

    @smolagents.tool
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: One.
            b: The other.
        """
        return a + b

    script.answers = [ADD, '{"name": "final_answer", "arguments": {"answer": "3"}}']
    agent = smolagents.ToolCallingAgent(
        tools=[add], model=smol_model(server), max_steps=3, verbosity_level=0
    )
    assert agent.run("Add 1 and 2") == "3"


@pytest.mark.parametrize("is_structured", [False, True])
def test_smolagents_writes_code(server: Running, script: Script, is_structured: bool) -> None:
    smolagents = pytest.importorskip("smolagents")
    code = "final_answer(1 + 2)"
    script.answers = [
        json.dumps({"thought": "I add.", "code": code})
        if is_structured
        else f"Thought: I add.\n<code>\n{code}\n</code>"
    ]
    agent = smolagents.CodeAgent(
        tools=[], model=smol_model(server), max_steps=1, verbosity_level=0,
        use_structured_outputs_internally=is_structured,
    )  # fmt: skip
    assert agent.run("Add 1 and 2") == 3


def haystack_generator(server: Running, **options: Any) -> Any:
    chat = pytest.importorskip("haystack.components.generators.chat")
    from haystack.utils import Secret

    return chat.OpenAIChatGenerator(
        api_key=Secret.from_token("x"), model=NAME, api_base_url=f"{server.url}/v1",
        generation_kwargs={"max_tokens": 100}, max_retries=0, **options,
    )  # fmt: skip


def test_haystack_asks_streams_and_calls(server: Running, script: Script) -> None:
    generator = haystack_generator(server)
    from haystack.dataclasses import ChatMessage
    from haystack.tools import tool

    asked = [ChatMessage.from_user("Tell me a story.")]
    assert generator.run(asked)["replies"][0].text
    chunks: list[Any] = []
    reply = haystack_generator(server, streaming_callback=chunks.append).run(asked)["replies"][0]
    assert "".join(chunk.content for chunk in chunks) == reply.text

    @tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    for options in ({}, {"streaming_callback": chunks.append}):
        script.answers = [ADD]
        reply = haystack_generator(server, tools=[add], **options).run(asked)["replies"][0]
        (call,) = reply.tool_calls
        assert (call.tool_name, call.arguments) == ("add", {"a": 1, "b": 2})


def test_haystacks_agent_calls_a_tool(server: Running, script: Script) -> None:
    generator = haystack_generator(server)
    agents = pytest.importorskip("haystack.components.agents")
    from haystack.dataclasses import ChatMessage
    from haystack.tools import tool

    @tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    script.answers = [ADD, "It is 3."]
    agent = agents.Agent(chat_generator=generator, tools=[add])
    messages = agent.run(messages=[ChatMessage.from_user("Add 1 and 2")])["messages"]
    assert messages[-2].tool_call_result.result == "3" and messages[-1].text == "It is 3."


@pytest.mark.parametrize("kind", ["openai", "ollama"])
def test_llama_index_asks_streams_and_fills_models(
    server: Running, script: Script, person: Any, kind: str
) -> None:
    core = pytest.importorskip("llama_index.core.llms")
    from llama_index.core.prompts import PromptTemplate

    if kind == "openai":
        like = pytest.importorskip("llama_index.llms.openai_like")
        model = like.OpenAILike(model=NAME, api_base=f"{server.url}/v1", api_key="x",
                                is_chat_model=True, is_function_calling_model=True,
                                max_tokens=100, max_retries=0)  # fmt: skip
    else:
        like = pytest.importorskip("llama_index.llms.ollama")
        model = like.Ollama(model=NAME, base_url=server.url, request_timeout=60,
                            additional_kwargs={"num_predict": 100})  # fmt: skip
    turns = [core.ChatMessage(role="user", content="Tell me a story.")]
    assert model.chat(turns).message.content
    assert len(list(model.stream_chat(turns))) > 1
    assert model.complete("Once upon a time").text
    script.answers = [] if kind == "ollama" else [
        json.dumps({"name": "Person", "arguments": {"age": 7}})]  # fmt: skip
    assert isinstance(model.structured_predict(person, PromptTemplate("make one")).age, int)


def test_outlines_holds_answers_to_types(server: Running, person: Any) -> None:
    outlines = pytest.importorskip("outlines")
    model = outlines.from_openai(openai_client(server), NAME)
    assert model("Tell me a story.", max_tokens=10)
    assert isinstance(json.loads(model("How old?", person, max_tokens=200))["age"], int)
    assert "".join(model.stream("Tell me a story.", max_tokens=10))


def test_outlines_speaks_to_ollama(server: Running, person: Any) -> None:
    outlines, ollama = map(pytest.importorskip, ("outlines", "ollama"))
    with ollama.Client(host=server.url) as client:
        model = outlines.from_ollama(client, NAME)
        found = model("How old?", person, options={"num_predict": 200})
    assert isinstance(json.loads(found)["age"], int)


def test_guidance_asks_a_server(server: Running, script: Script) -> None:
    guidance = pytest.importorskip("guidance")
    pytest.importorskip("openai")
    model = guidance.models.OpenAI(NAME, api_key="x", base_url=f"{server.url}/v1", echo=False)
    script.answers = ["Four."]
    with guidance.user():
        model += "2 + 2?"
    with guidance.assistant():
        model += guidance.gen("answer", max_tokens=20)
    assert model["answer"] == "Four."


def run_llm(folder: Path, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "llm", *arguments], capture_output=True, text=True, check=False,
        env={**os.environ, "LLM_LOAD_PLUGINS": "llm-ollama", "LLM_USER_PATH": str(folder),
             **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_llm_asks_by_its_own_openai_models(server: Running, script: Script, tmp_path: Path) -> None:
    pytest.importorskip("llm")
    entry = {"model_id": "here", "model_name": NAME, "api_base": f"{server.url}/v1",
             "supports_tools": True, "supports_schema": True}  # fmt: skip
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([entry]))
    key = {"OPENAI_API_KEY": "x"}
    script.answers = ["Four.", "Five."]
    assert run_llm(tmp_path, "-m", "here", "2 + 2?", **key) == "Four.\n"
    assert run_llm(tmp_path, "-m", "here", "2 + 3?", "--no-stream", **key) == "Five.\n"
    found = run_llm(tmp_path, "-m", "here", "--schema", "age int", "How old?", **key)
    assert isinstance(json.loads(found)["age"], int)
    tool = "def add(a: int, b: int) -> int:\n    return a + b\n"
    script.answers = [ADD, "It is 3."]
    options = ("--functions", tool, "Add 1 and 2")
    assert run_llm(tmp_path, "-m", "here", *options, **key) == "It is 3.\n"


def test_llm_asks_by_its_plugin_for_ollama(server: Running, script: Script, tmp_path: Path) -> None:
    pytest.importorskip("llm")
    pytest.importorskip("llm_ollama")
    host = {"OLLAMA_HOST": server.url}
    model = re.search(rf"Ollama: (\S*{NAME}\S*)", run_llm(tmp_path, "models", **host))
    assert model is not None
    script.answers = ["Four."]
    assert run_llm(tmp_path, "-m", model[1], "2 + 2?", **host) == "Four.\n"
    found = run_llm(tmp_path, "-m", model[1], "--schema", "age int", "How old?", **host)
    assert isinstance(json.loads(found)["age"], int)
