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


@pytest.fixture(scope="session")
def piece_texts(data: Path) -> list[str]:
    """Texts whose ids llama.cpp gave for each vocabulary of ``pieces``."""
    texts: list[str] = json.loads((data / "pieces" / "texts.json").read_text(encoding="utf-8"))
    return texts


@pytest.fixture(scope="session")
def pieces(data: Path, request: pytest.FixtureRequest) -> tuple[Tokenizer, dict[str, Any]]:
    """A small vocabulary of an encoder, by its name, and what llama.cpp makes of texts with it."""
    found = json.loads((data / "pieces" / f"{request.param}.json").read_text(encoding="utf-8"))
    metadata = {f"tokenizer.ggml.{key}": value for key, value in found["metadata"].items()}
    metadata["general.architecture"] = found["architecture"]
    return load_tokenizer(metadata), found
