from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.api.llama import Llama


@pytest.fixture(scope="session")
def stories(data: Path) -> Path:
    return data / "models" / "stories260K.f32.gguf"


@pytest.fixture(scope="module")
def llm(stories: Path, kernels: None) -> Iterator[Llama]:
    with Llama(stories, n_ctx=256, logits_all=True) as model:
        yield model


@pytest.fixture
def opened(stories: Path) -> Iterator[Any]:
    """Open models that are closed after the test."""
    models: list[Llama] = []

    def open_(**options: Any) -> Llama:
        models.append(Llama(stories, **{"n_ctx": 256, **options}))
        return models[-1]

    yield open_
    for model in models:
        model.close()
