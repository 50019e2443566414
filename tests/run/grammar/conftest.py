"""What all tests of grammars share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def small_collections() -> Iterator[None]:
    """Leave what other tests have in memory out of garbage collections.

    A grammar has 0.8 s of CPU time; a collection in a process that has run thousands of tests takes
    as long.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
