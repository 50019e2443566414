"""Generating on two threads against one, in turns, beside what memory gives two threads right then.

    python benchmarks/threads.py MODEL... [--seconds 30] [--threads 2]

On a virtual machine the bandwidth of memory changes within seconds, as neighbours come and go, and
two threads cannot be twice as fast as one where they read no more. Each row is measured between two
readings of memory, and counts among those where memory gave as much: ``MODEL``, bandwidth from and
to (GB/s), rows, medians of tok/s on one thread and on all, of their ratio, and the largest ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from gguf_hub.api.llama import Llama
from gguf_hub.hub.hardware.probe import read_bandwidth

N_TOKENS = 6
STEP_GB = 15
BUFFER_BYTES = 400_000_000


def tok_per_s(llm: Llama) -> float:
    """Generate a few tokens behind an empty context."""
    llm.reset()
    llm.eval([1])
    began = time.perf_counter()
    for i in range(N_TOKENS):
        llm.eval([5 + i])
    return N_TOKENS / (time.perf_counter() - began)


def measure(model: Path, n_threads: int, seconds: float) -> list[tuple[float, float, float]]:
    """Return rows of bandwidth in GB/s, tok/s on one thread, tok/s on all."""

    def bandwidth() -> float:
        return (read_bandwidth(n_threads, BUFFER_BYTES, limit_s=0.08) or 0) / 1e9

    one = Llama(str(model), n_ctx=64, n_threads=1, verbose=False)
    all_ = Llama(str(model), n_ctx=64, n_threads=n_threads, verbose=False)
    for llm in (one, all_):
        tok_per_s(llm)
    rows, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        before = bandwidth()
        rates = tok_per_s(one), tok_per_s(all_)
        after = bandwidth()
        if int(before / STEP_GB) == int(after / STEP_GB):  # it did not change meanwhile
            rows.append((min(before, after), *rates))
    return rows


def report(model: Path, rows: list[tuple[float, float, float]]) -> None:
    """Print a line for each range of bandwidth."""
    for step in sorted({int(row[0] / STEP_GB) for row in rows}):
        some = [row for row in rows if int(row[0] / STEP_GB) == step]
        ratios = [several / one for _, one, several in some]
        one, several = (statistics.median(row[i] for row in some) for i in (1, 2))
        print(
            f"{model.stem:12} {STEP_GB * step:3} to {STEP_GB * (step + 1):3} GB/s  {len(some):4}  "
            f"{one:7.1f} {several:7.1f}  {statistics.median(ratios):.2f}  {max(ratios):.2f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    for model in options.models:
        report(model, measure(model, options.threads, options.seconds))


if __name__ == "__main__":
    main()
