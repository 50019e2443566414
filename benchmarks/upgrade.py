"""Upgrading a split-expert Mixtral of 4.3 GB beside copying it, in one run.

    python benchmarks/upgrade.py [--folder DIR] [--layers 5] [--repeat 3]

`cp` returns when the system has taken the bytes; `upgrade` only when they are on the disk. The row
`cp, then sync` is the fair one. Runs take turns in changing order, so that a busy disk hits all of
them; a first round does not count, as memory that a virtual machine gave back to its host is slow.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.synth import Shape, write_mixtral


def run(command: list[str]) -> tuple[float, int]:
    """Seconds and peak memory in bytes of a command."""
    subprocess.run(["sync"], check=True)
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return time.perf_counter() - start, peak * 1024


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source, target = Path(folder) / "in.gguf", Path(folder) / "out.gguf"
        write_mixtral(source, Shape(n_layer=options.layers), recipe="Q4_K_M")
        upgrade = [sys.executable, "-m", "gguf_hub", "upgrade", str(source), str(target)]
        commands = {
            "cp": ["cp", str(source), str(target)],
            "cp, then sync": ["sh", "-c", f"cp {source} {target} && sync {target}"],
            "gguf-hub upgrade": upgrade,
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        peak = 0
        for i in range(options.repeat + 1):
            names = list(commands)
            for name in (*names[i % len(names) :], *names[: i % len(names)]):
                seconds, peak = run(commands[name])
                if i:
                    times[name].append(seconds)
                target.unlink()
        size_gb = source.stat().st_size / 1e9
    medians = {name: statistics.median(each) for name, each in times.items()}
    print(f"{size_gb:.2f} GB; peak memory of all commands {peak / 1e6:.0f} MB")
    print(f"{'':20}{'median':>9}{'GB/s':>8}{'of cp':>8}{'of cp+sync':>12}")
    for name, seconds in medians.items():
        of_cp, of_sync = medians["cp"] / seconds, medians["cp, then sync"] / seconds
        rate = size_gb / seconds
        span = f"{min(times[name]):.2f} to {max(times[name]):.2f}"
        print(f"{name:20}{seconds:>7.2f} s{rate:>8.2f}{of_cp:>8.0%}{of_sync:>12.0%}  {span}")


if __name__ == "__main__":
    main()
