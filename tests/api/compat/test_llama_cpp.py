"""The module that stands in for ``llama_cpp``."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gguf_hub.api.compat import llama_cpp as compat
from gguf_hub.api.compat.llama_cpp.c_names import NAMES
from gguf_hub.api.compat.llama_cpp.llama_cpp import OURS


def test_it_is_found_under_the_other_name(installed: ModuleType) -> None:
    assert import_module("llama_cpp") is installed is compat
    assert import_module("llama_cpp.llama_grammar").LlamaGrammar is compat.LlamaGrammar
    assert import_module("llama_cpp.llama").LogitsProcessorList is compat.LogitsProcessorList
    assert compat.install() is installed  # twice is no harm


MODULES = (
    "_internals", "_logger", "_utils", "llama", "llama_cache", "llama_chat_format", "llama_cpp",
    "llama_grammar", "llama_speculative", "llama_tokenizer", "llama_types", "server",
    "server.app",
)  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_the_same_under_both_names(installed: ModuleType, name: str) -> None:
    theirs = import_module(f"llama_cpp.{name}")
    assert theirs is import_module(f"gguf_hub.api.compat.llama_cpp.{name}")


# what other packages import, in their words
IMPORTS = """
from llama_cpp import (llama_batch_free, llama_batch_init, llama_decode, llama_get_logits,
    llama_get_memory, llama_memory_seq_rm, llama_model_get_vocab)
from llama_cpp import (ChatCompletionMessageToolCall, ChatCompletionRequestAssistantMessage,
    ChatCompletionRequestMessage, ChatCompletionRequestMessageContentPart,
    ChatCompletionResponseChoice, ChatCompletionStreamResponseDelta,
    ChatCompletionStreamResponseDeltaEmpty, ChatCompletionTool, CreateChatCompletionResponse,
    CreateChatCompletionStreamResponse, llama_chat_format)
from llama_cpp.llama_chat_format import Llava15ChatHandler
from llama_cpp.llama_tokenizer import LlamaHFTokenizer
from llama_cpp import (LLAMA_TOKEN_ATTR_CONTROL, LLAMA_TOKEN_ATTR_USER_DEFINED, llama_cpp)
from llama_cpp import (llama_token_get_attr, llama_token_to_piece, llama_vocab_eos)
from llama_cpp import (llama_vocab_n_tokens, llama_vocab_p)
from llama_cpp import LogitsProcessor, LogitsProcessorList, StoppingCriteriaList
from llama_cpp import llama_supports_gpu_offload, llama_supports_mlock, llama_supports_mmap
from llama_cpp import (ChatCompletionFunctionParameters, ChatCompletionRequestFunctionMessage,
    ChatCompletionRequestSystemMessage, ChatCompletionRequestToolMessage,
    ChatCompletionRequestUserMessage, ChatCompletionToolFunction)
from llama_cpp.server.app import LlamaProxy
from llama_cpp import llama_log_callback, llama_log_set, __version__
from llama_cpp.llama_types import CreateChatCompletionResponse
from llama_cpp.llama import Llama, LlamaGrammar, LlamaDraftModel, LlamaCache
from llama_cpp.llama_cpp import GGML_TYPE_Q8_0, llama_context_p, llama_kv_cache_p
"""


def test_names_that_packages_import_are_there(installed: ModuleType) -> None:
    exec(IMPORTS, names := {})
    assert names["llama_cpp"]._lib.llama_tokenize
    assert all(value is not None for value in names.values())


def test_types_are_those_of_requests(installed: ModuleType) -> None:
    tool: Any = compat.ChatCompletionTool(type="function", function={"name": "f"})
    assert tool == {"type": "function", "function": {"name": "f"}}
    usage = compat.llama_types.CompletionUsage
    assert set(usage.__annotations__) == {"prompt_tokens", "completion_tokens", "total_tokens"}


CANNOT = (
    "llama_encode", "llama_cpp.llama_state_get_data", "llama_chat_format.Llava15ChatHandler",
    "llama_chat_format.MoondreamChatHandler.from_pretrained", "server.app.LlamaProxy",
    "server.app.create_app", "llama_grammar.SchemaConverter",
)  # fmt: skip


@pytest.mark.parametrize("name", CANNOT)
def test_what_cannot_work_says_so_when_it_is_used(installed: ModuleType, name: str) -> None:
    found: Any = installed
    for part in name.split("."):
        found = getattr(found, part)
    with pytest.raises(NotImplementedError, match=r"cannot be used with gguf-hub: ") as caught:
        found("x", key=1)
    assert caught.value.hint


def test_names_that_the_real_one_lacks_are_not_there(installed: ModuleType) -> None:
    for module in (installed, installed.llama_cpp, installed.llama_chat_format):
        assert not hasattr(module, "llama_no_such_function")
    assert not NAMES & OURS.keys()


def test_its_server_names_ours() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from gguf_hub.api.compat import llama_cpp; llama_cpp.install()\n"
         "import runpy; runpy.run_module('llama_cpp.server', run_name='__main__')"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "gguf-hub serve" in done.stderr and "Traceback" not in done.stderr


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


@pytest.mark.slow
def test_the_model_cards_program_runs_as_printed(installed: ModuleType, embedded: Path) -> None:
    seen: dict[str, object] = {}
    exec(CARD.format(path=embedded, prompt="{prompt}"), seen)
    output, chat = seen["output"], seen["output_chat"]
    assert isinstance(output, dict) and isinstance(chat, dict)
    assert output["choices"][0]["text"].startswith("{prompt}")
    assert output["usage"]["completion_tokens"] > 0
    assert chat["choices"][0]["message"]["role"] == "assistant"


def test_grammars_of_json_are_made_and_the_others_say_why_not() -> None:
    from gguf_hub.api.compat.llama_cpp import llama_grammar

    for name in ("JSON_GBNF", "JSON_ARR_GBNF"):
        assert "root ::=" in getattr(llama_grammar, name)
        llama_grammar.LlamaGrammar.from_string(getattr(llama_grammar, name))
    for name in ("ARITHMETIC_GBNF", "CHESS_GBNF", "C_GBNF", "JAPANESE_GBNF", "LIST_GBNF"):
        with pytest.raises(AttributeError, match=f"{name}` is not there: .*from_file"):
            getattr(llama_grammar, name)
