"""Two real vocabularies."""

from __future__ import annotations

from pathlib import Path

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
