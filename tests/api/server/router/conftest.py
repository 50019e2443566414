from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.api.server.conftest import need
from tests.api.server.router.harness import RunningRouter


@pytest.fixture
def files(stories: Path, tmp_path: Path) -> list[Path]:
    """Three models, ``a``, ``b`` and ``c``."""
    paths = [tmp_path / f"{name}.gguf" for name in "abc"]
    for path in paths:
        shutil.copy(stories, path)
    return paths


@pytest.fixture
def start() -> Iterator[Callable[..., RunningRouter]]:
    """Start routers."""
    need()
    with ExitStack() as stack:

        def begin(files: list[Path] | None, **options: Any) -> RunningRouter:
            return RunningRouter(stack, files, **options)

        yield begin
