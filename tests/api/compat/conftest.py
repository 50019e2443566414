from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest

from gguf_hub.api.compat import llama_cpp as compat


@pytest.fixture
def installed() -> Iterator[ModuleType]:
    yield compat.install()
    compat.uninstall()
