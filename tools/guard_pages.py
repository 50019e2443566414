"""All kernels in memory that ends, or begins, at pages which nobody may touch (see tests/guard.py).

    python tools/guard_pages.py [--isa ISA]

Every type, in shapes of odd and even widths, with caches of both types, one slot and several, one
thread and several: some hundred models in both places, an hour on two cores. A case in which a
kernel reads or writes outside of its arrays is printed, and makes the exit code 1. ``--isa`` forces
a poorer instruction set than the CPU's best: generic, avx2 ...
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests import guard
from tests.guard import Case
from tests.synth import Shape

FLOATS = ("F32", "F16", "BF16")
SMALL_BLOCKS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
SUPER_BLOCKS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
# shape, and dimensions that rotate
BY_32 = [
    (Shape(1, 64, 2, 1, 96, 0, 0, 263, 40), 0),
    (Shape(1, 96, 3, 3, 32, 3, 3, 301, 33), 0),
]
BY_256 = [
    (Shape(1, 256, 8, 2, 512, 3, 2, 269, 40), 0),
    (Shape(1, 256, 1, 1, 256, 0, 0, 301, 300), 0),
]
ODD = [
    (Shape(1, 35, 5, 1, 33, 5, 1, 260, 31), 6),
    (Shape(1, 10, 5, 5, 1, 0, 0, 261, 1), 2),
    (Shape(1, 130, 1, 1, 7, 2, 2, 263, 600), 2),
]
Q8_0_CACHE = {"key_type": "Q8_0", "value_type": "Q8_0"}
OPTIONS = [
    {"n_threads": 1},
    {"n_threads": 3, "n_slots": 5, "n_logits": None},
    {"n_threads": 2, "n_slots": 2, "n_logits": None, "n_batch": 17, **Q8_0_CACHE},
    {"n_threads": 2, "n_batch": 1, "key_type": "Q8_0", "value_type": "F16"},
    {"n_threads": 2, "n_batch": 17, "key_type": "F32", "value_type": "F32"},
]
TIMEOUT_S = 900


def cases() -> Iterator[Case]:
    """Yield every case of the matrix."""
    shapes = [(FLOATS, [*BY_32, *ODD]), (SMALL_BLOCKS, BY_32), (SUPER_BLOCKS, BY_256)]
    for types, sizes in shapes:
        for type_, (shape, n_rot), options in itertools.product(types, sizes, OPTIONS):
            for layout in ("split", "merged") if shape.n_expert else ("split",):
                yield Case(f"all {type_}", shape, layout, n_rot, options)


def failure(case: Case, at: str) -> str | None:
    """Run a case; return what went wrong, or None."""
    try:
        done = subprocess.run(
            guard.command(at, [case]), capture_output=True, text=True, timeout=TIMEOUT_S,
            env=guard.environment(),
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"still running after {TIMEOUT_S} s"
    if done.returncode == 0:
        return None
    return f"exit code {done.returncode}\n{done.stderr[-700:]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--isa", help="instruction set, in place of the CPU's best")
    isa = parser.parse_args().isa
    if isa:
        os.environ["GGUF_HUB_ISA"] = isa
    n_run = n_failed = 0
    for at, case in itertools.product(guard.PLACES, list(cases())):
        n_run += 1
        problem = failure(case, at)
        if problem:
            n_failed += 1
            print(f"{at} {case}: {problem}", flush=True)
        if n_run % 20 == 0:
            print(f"{n_run} cases, {n_failed} failed", file=sys.stderr, flush=True)
    print(f"{n_run} cases, {n_failed} failed")
    return 1 if n_failed else 0


if __name__ == "__main__":
    sys.exit(main())
