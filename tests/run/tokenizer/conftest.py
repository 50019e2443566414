"""Real vocabularies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.tokenizer import Tokenizer, load_tokenizer


def real_tokenizer(path: Path) -> Tokenizer:
    with GgufFile.open(path) as file:
        return load_tokenizer(file.metadata)


@pytest.fixture(scope="session")
def llama2(data: Path) -> Tokenizer:
    return real_tokenizer(data / "vocab" / "ggml-vocab-llama-spm.gguf")


@pytest.fixture(scope="session")
def mixtral(data: Path) -> Tokenizer:
    return real_tokenizer(data / "vocab" / "mixtral-v1.vocab.gguf")


BPE = ["deepseek-v4", "gemma-4", "gpt-oss", "qwen3.6", "tekken"]


@pytest.fixture(scope="session", params=BPE)
def bpe(data: Path, request: pytest.FixtureRequest) -> tuple[Tokenizer, list[dict[str, Any]]]:
    """A part of a real vocabulary, and texts with their ids."""
    content = json.loads((data / "bpe" / f"{request.param}.json").read_text(encoding="utf-8"))
    metadata = {f"tokenizer.ggml.{key}": value for key, value in content["metadata"].items()}
    return load_tokenizer(metadata), content["cases"]
