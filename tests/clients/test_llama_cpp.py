"""Packages that import ``llama_cpp``, on gguf-hub; each skipped where it is absent.

Those that require llama-cpp-python are installed without their requirements (``make clients``).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from gguf_hub.api.compat import llama_cpp as compat
from tests.conftest import ROOT

pytestmark = pytest.mark.filterwarnings("ignore")  # of other packages

PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def llm(kernels: None, model_path: Path) -> Iterator[Any]:
    with compat.Llama(str(model_path), n_ctx=1024, logits_all=True, verbose=False) as model:
        yield model


def greedy(llm: Any, n: int) -> str:
    text: str = llm(PROMPT, max_tokens=n, temperature=0)["choices"][0]["text"]
    return text


def test_guidance_computes_logits_by_c_functions(llm: Any) -> None:
    guidance = pytest.importorskip("guidance")
    model = guidance.models.LlamaCpp(llm, echo=False)
    written = model + PROMPT + guidance.gen("x", max_tokens=8, temperature=0)
    assert greedy(llm, 20).strip().startswith(written["x"].strip())
    chosen = model + PROMPT + guidance.select(["cat", "dog"], name="x")
    assert chosen["x"] in ("cat", "dog")
    number = model + "1 + 1 = " + guidance.gen("x", regex=r"[0-9]{3}")
    assert re.fullmatch(r"[0-9]{3}", number["x"])


@pytest.mark.parametrize("backend", [None, "llguidance"])
@pytest.mark.parametrize("kind", ["model", "regex", "choice", "grammar"])
def test_outlines_holds_answers_to_types(
    llm: Any, person: Any, kind: str, backend: str | None
) -> None:
    outlines = pytest.importorskip("outlines")
    from outlines.types import CFG, Regex

    model = outlines.from_llamacpp(llm)
    output: Any = {"model": person, "regex": Regex(r"[0-9]{3}"), "choice": Literal["cat", "dog"],
                   "grammar": CFG('start: "a" | "b"')}[kind]  # fmt: skip
    options = {} if backend is None else {"backend": backend}
    found = outlines.Generator(model, output, **options)(PROMPT, max_tokens=60, temperature=0.1)
    expected = {"regex": r"[0-9]{3}", "choice": "cat|dog", "grammar": "a|b"}.get(kind, r"\s*\{.*")
    assert re.match(expected, found, re.DOTALL), found


def test_outlines_streams(llm: Any) -> None:
    outlines = pytest.importorskip("outlines")
    assert len(list(outlines.from_llamacpp(llm).stream(PROMPT, max_tokens=8))) > 1


def test_haystack_chats_and_calls(model_path: Path) -> None:
    package = pytest.importorskip("haystack_integrations.components.generators.llama_cpp")
    from haystack.dataclasses import ChatMessage
    from haystack.tools import tool

    @tool
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    choice = {"type": "function", "function": {"name": "add"}}
    for options in ({}, {"streaming_callback": lambda chunk: None}):
        generator = package.LlamaCppChatGenerator(
            model=str(model_path), n_ctx=1024, tools=[add],
            generation_kwargs={"max_tokens": 100, "tool_choice": choice}, **options,
        )  # fmt: skip
        generator.warm_up()
        (call,) = generator.run([ChatMessage.from_user("Hi")])["replies"][0].tool_calls
        assert call.tool_name == "add" and set(call.arguments) == {"a", "b"}
    generator = package.LlamaCppChatGenerator(
        model=str(model_path), n_ctx=1024, generation_kwargs={"max_tokens": 8}
    )
    generator.warm_up()
    assert generator.run([ChatMessage.from_user("Hi")])["replies"][0].text


def test_lm_format_enforcer_holds_answers_to_an_expression(llm: Any) -> None:
    enforcer = pytest.importorskip("lmformatenforcer")
    from lmformatenforcer.integrations import llamacpp

    parser = enforcer.RegexParser(r"[0-9]{3}")
    processor = llamacpp.build_llamacpp_logits_processor(llm, parser)
    answer = llm(PROMPT, max_tokens=60, temperature=0,
                 logits_processor=compat.LogitsProcessorList([processor]))  # fmt: skip
    assert re.fullmatch(r"[0-9]{3}", answer["choices"][0]["text"])


def test_llama_index_completes_chats_and_streams(model_path: Path) -> None:
    package = pytest.importorskip("llama_index.llms.llama_cpp")
    from llama_index.core.llms import ChatMessage

    model = package.LlamaCPP(model_path=str(model_path), max_new_tokens=8, context_window=512,
                             verbose=False)  # fmt: skip
    assert model.metadata.context_window == 512
    assert model.complete(PROMPT).text
    assert len(list(model.stream_complete(PROMPT))) > 1
    assert model.chat([ChatMessage(role="user", content="Hi")]).message.content


def test_llm_gguf_answers_from_the_command_line(model_path: Path, tmp_path: Path) -> None:
    """A process of its own: the distribution's module gives it the name."""
    pytest.importorskip("llm")
    pytest.importorskip("llm_gguf")
    environment = {
        **os.environ, "LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": "llm-gguf",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "packages" / "gguf-hub-llama-cpp"), str(ROOT)]),
    }  # fmt: skip

    def llm(*arguments: str) -> str:
        done = subprocess.run([sys.executable, "-m", "llm", *arguments], env=environment,
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    llm("gguf", "register-model", "tiny", str(model_path))
    llm("gguf", "register-embed-model", "tiny-embed", str(model_path))
    assert llm("-m", "gguf/tiny", "Tell me a story.").strip()
    vectors = json.loads(llm("embed", "-m", "gguf/tiny-embed", "-c", "a"))
    assert {len(vector) for vector in vectors} == {256}  # of each token: it has no pooling
