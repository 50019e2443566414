"""The module that stands in for ``llama_cpp``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from gguf_hub.api.compat import llama_cpp as compat


@pytest.fixture
def installed() -> Iterator[ModuleType]:
    yield compat.install()
    compat.uninstall()


def test_it_is_found_under_the_other_name(installed: ModuleType) -> None:
    assert import_module("llama_cpp") is installed is compat
    assert import_module("llama_cpp.llama_grammar").LlamaGrammar is compat.LlamaGrammar
    assert import_module("llama_cpp.llama").LogitsProcessorList is compat.LogitsProcessorList
    assert compat.install() is installed  # twice is no harm


def test_it_goes_away_again() -> None:
    compat.install()
    compat.uninstall()
    assert not any(name.split(".")[0] == "llama_cpp" for name in sys.modules)


def test_it_does_not_replace_the_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", ModuleType("llama_cpp"))
    with pytest.raises(ImportError, match="before the first `import llama_cpp`"):
        compat.install()


CARD = """
from llama_cpp import Llama

# Set gpu_layers to the number of layers to offload to GPU. Set to 0 if no GPU acceleration is available on your system.
llm = Llama(
  model_path="{path}",  # Download the model file first
  n_ctx=2048,  # The max sequence length to use - note that longer sequence lengths require much more resources
  n_threads=8,            # The number of CPU threads to use, tailor to your system and the resulting performance
  n_gpu_layers=35         # The number of layers to offload to GPU, if you have GPU acceleration available
)

# Simple inference example
output = llm(
  "{prompt}", # Prompt
  max_tokens=512,  # Generate up to 512 tokens
  stop=["</s>"],   # Example stop token - not necessarily correct for this specific model! Please check before using.
  echo=True        # Whether to echo the prompt
)

# Chat Completion API

llm = Llama(model_path="{path}", chat_format="llama-2")  # Set chat_format according to the model you are using
output_chat = llm.create_chat_completion(
    messages = [
        {{"role": "system", "content": "You are a story writing assistant."}},
        {{
            "role": "user",
            "content": "Write a story about llamas."
        }}
    ]
)
"""  # noqa: E501


def test_the_model_cards_program_runs_as_printed(installed: ModuleType, embedded: Path) -> None:
    seen: dict[str, object] = {}
    exec(CARD.format(path=embedded, prompt="{prompt}"), seen)
    output, chat = seen["output"], seen["output_chat"]
    assert isinstance(output, dict) and isinstance(chat, dict)
    assert output["choices"][0]["text"].startswith("{prompt}")
    assert output["usage"]["completion_tokens"] > 0
    assert chat["choices"][0]["message"]["role"] == "assistant"
