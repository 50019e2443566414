"""Models without a chat template have the conversation format that Ollama says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_hub.api.llama import Llama
from gguf_hub.api.server.opening import open_service
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.hub.programs.conversations import choose_chat_format
from gguf_hub.hub.programs.go_templates import FORMATS
from gguf_hub.run.chat import find_format
from gguf_hub.run.model.settings import ModelSettings
from tests.hub.programs.folders import ollama_model

Cli = Callable[..., tuple[int, str, str]]
NAME = "registry.ollama.ai/library/story/latest"
HARMONY = "<|start|>system<|message|>{{ .System }}<|end|><|start|>assistant<|channel|>final"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("template", "settings", "name"),
    [
        *((each.template, {}, each.name) for each in FORMATS),
        (HARMONY, {}, "gpt-oss"),
        ("{{ .Prompt }}", {"renderer": "qwen3-vl-instruct"}, "chatml"),
        ("{{ .Prompt }}", {}, None),
        ("<|im_start|>", {"renderer": "unknown"}, None),
        ("<|im_start|>user<|im_sep|>{{ .Prompt }}<|im_end|>", {}, None),  # Phi 4
        ("[INST] <<SYS>>{{ .System }}<</SYS>> {{ .Prompt }} [/INST]", {}, None),  # Llama 2
        ("[SYSTEM_PROMPT]{{ .System }}[/SYSTEM_PROMPT][INST]{{ .Prompt }}[/INST]", {}, None),
        ("<|user|>\n{{ .Prompt }}\n<|assistant|>\n", {}, None),
    ],
)
def test_the_format_is_that_of_ollamas_template_or_renderer(
    folder: Path, template: str, settings: dict[str, str], name: str | None
) -> None:
    blob = ollama_model(folder, NAME, b"x", template=template, **settings)
    assert choose_chat_format(blob, {}, None) == name
    assert name is None or find_format(name)
    assert choose_chat_format(blob, {}, "alpaca") == "alpaca"
    assert choose_chat_format(blob, {"tokenizer.chat_template": "{{ x }}"}, None) is None


def test_names_that_disagree_decide_nothing(folder: Path) -> None:
    for name, form in zip((NAME, f"{NAME}2"), FORMATS, strict=False):
        blob = ollama_model(folder, name, b"x", template=form.template)
    assert choose_chat_format(blob, {}, None) is None


def test_gpt_oss_is_known_without_a_manifest(tmp_path: Path) -> None:
    tokens = ["<|start|>", "<|channel|>", "<|message|>"]
    gpt_oss = {"general.architecture": "gpt-oss", "tokenizer.ggml.tokens": tokens}
    path = tmp_path / "x.gguf"
    assert choose_chat_format(path, gpt_oss, None) == "gpt-oss"
    assert choose_chat_format(path, {**gpt_oss, "tokenizer.ggml.tokens": tokens[:2]}, None) is None
    assert choose_chat_format(path, {**gpt_oss, "general.architecture": "llama"}, None) is None


def test_run_and_the_library_agree(folder: Path, data: Path, gguf_hub: Cli) -> None:
    stories = data / "models" / "stories260K.f32.gguf"
    assert "tokenizer.chat_template" not in GgufFile.open(stories).metadata
    blob = ollama_model(folder, NAME, stories.read_bytes(), template=FORMATS[2].template)
    assert "chat template  no; conversation format `gemma`" in gguf_hub("inspect", blob)[1]
    _, _, err = gguf_hub("run", blob, "-cnv", "-st", "-p", "Hi", "-n", 2, "--temp", 0)
    assert "conversation format `gemma` as Ollama has this model" in err
    with Llama(str(blob), n_ctx=64, verbose=False) as llama:
        assert llama.chat_format == "gemma"


def test_the_server_has_the_same_format(folder: Path, data: Path) -> None:
    stories = (data / "models" / "stories260K.f32.gguf").read_bytes()
    blob = ollama_model(folder, NAME, stories, template=FORMATS[2].template)
    with open_service(blob, ModelSettings(n_ctx=64)) as service:
        assert service.chat_format == find_format("gemma")
