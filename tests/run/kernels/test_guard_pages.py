"""Compiled kernels in memory that ends, and begins, where nobody may read: a few of many cases.

``tools/guard_pages.py`` runs all types, shapes, caches and instruction sets.
"""

from __future__ import annotations

import signal
import subprocess

import pytest

from tests import guard
from tests.guard import Case
from tests.synth import Shape

pytestmark = pytest.mark.skipif(not guard.IS_POSSIBLE, reason="needs mprotect")

CASES = [
    # no width is a multiple of anything; heads are longer than they rotate
    Case("F32", Shape(1, 35, 5, 1, 33, 5, 2, 260, 31), "merged", n_rot=6,
         options={"n_threads": 2, "n_slots": 3, "n_logits": None}),
    Case("F32", Shape(1, 10, 5, 5, 1, 0, 0, 261, 1), n_rot=2, options={"n_threads": 1}),
    Case("Q4_K_M", Shape(1, 256, 8, 2, 256, 3, 2, 269, 40), "merged",
         options={"n_threads": 3, "key_type": "Q8_0", "value_type": "Q8_0", "n_batch": 17}),
    Case("Q5_0", Shape(1, 256, 2, 1, 256, 0, 0, 263, 270),
         options={"n_threads": 2, "n_slots": 2, "key_type": "F32", "value_type": "F32"}),
]  # fmt: skip


def run(at: str, cases: list[Case | str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        guard.command(at, cases), capture_output=True, text=True, timeout=250,
        env=guard.environment(),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("at", guard.PLACES)
def test_kernels_touch_nothing_outside_of_their_arrays(at: str) -> None:
    done = run(at, [*CASES])
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "done"), (
        f"{done.stdout.splitlines()[-1]}\n{done.stderr[-2000:]}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("at", guard.PLACES)
def test_a_single_byte_outside_ends_the_process(at: str) -> None:
    assert run(at, ["touch"]).returncode == -signal.SIGSEGV
