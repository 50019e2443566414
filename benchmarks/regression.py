"""Speed of this checkout against another commit of it, in turns: what a change has cost.

    python benchmarks/regression.py --against v0.1.0 [--types Q4_K_M Q8_0] [--cells pp256 tg0]
        [--threads 2] [--rounds 7] [--least 0.95]

Takes the other commit's sources into ``build/bench`` and runs them with this environment's
packages, on the files of ``vs_llama_cpp.py``. Ends with 1 where a median of the ratios, round by
round, is below ``--least``.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.vs_llama_cpp import (
    ROOT,
    TYPES,
    WORK,
    Worker,
    bring_into_memory,
    speed,
    write_files,
)


def checkout(revision: str) -> Path:
    """Return a folder with the sources of another commit."""
    found = subprocess.run(["git", "rev-parse", "--short", f"{revision}^{{commit}}"], cwd=ROOT,
                           capture_output=True, text=True)  # fmt: skip
    if found.returncode:
        raise SystemExit(f"{revision}: {found.stderr.strip()}")
    folder = WORK / f"at-{found.stdout.strip()}"
    if not folder.exists():
        new = folder.with_suffix(".new")
        new.mkdir(parents=True, exist_ok=True)
        with subprocess.Popen(
            ["git", "archive", revision, "gguf_hub", "benchmarks", "catalog.yaml"],
            cwd=ROOT, stdout=subprocess.PIPE,
        ) as archive:  # fmt: skip
            subprocess.run(["tar", "x", "-C", new], stdin=archive.stdout, check=True)
        new.rename(folder)
    return folder


def compare(workers: tuple[Worker, Worker], cell: str, n_rounds: int) -> float:
    """Print both speeds and return the median ratio of theirs; a first round does not count."""
    samples: list[tuple[float, float]] = []
    for i in range(n_rounds + 1):
        now_first = i % 2 == 0
        pair = [speed(worker, cell) for worker in (workers if now_first else workers[::-1])]
        if i:
            samples.append((pair[0], pair[1]) if now_first else (pair[1], pair[0]))
    ratio = statistics.median(now / before for now, before in samples)
    now, before = (statistics.median(values) for values in zip(*samples, strict=True))
    print(f"  {cell:6} {now:9.2f} {before:9.2f} tok/s  {ratio:.3f}", flush=True)
    return ratio


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", required=True, metavar="REVISION")
    parser.add_argument("--types", nargs="+", default=("Q4_K_M", "Q8_0"), choices=TYPES)
    parser.add_argument("--cells", nargs="+", default=("pp256", "tg0"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--least", type=float, default=0.95)
    parser.set_defaults(layers=2, layout="split")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    workers = (Worker("ours", sys.executable),
               Worker("ours", sys.executable, checkout(options.against)))  # fmt: skip
    ratios = []
    for type_ in options.types:
        path = write_files(type_, options, WORK)["ours"]
        bring_into_memory(path)
        print(type_)
        for worker in workers:
            worker.ask("open", path=str(path), n_threads=options.threads, n_ctx=1024)
        ratios += [compare(workers, cell, options.rounds) for cell in options.cells]
    for worker in workers:
        worker.close()
    print(f"least {min(ratios):.3f}, expected at least {options.least}")
    return int(min(ratios) < options.least)


if __name__ == "__main__":
    sys.exit(main())
