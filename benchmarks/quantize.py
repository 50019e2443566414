"""Speed of quantising, ours against llama.cpp's, in turns on one file.

    python benchmarks/quantize.py --peer PYTHON [--rounds 5] [--threads 2] [--types Q4_0 Q4_K_M]

PYTHON is the interpreter of an environment with llama-cpp-python (built for this machine). Each
program runs in a process of its own and times its own call: reading a file that lies in the page
cache, computing, writing. Ours also brings the file to the disk before it takes its name.
``--make FILE`` writes the input: an F16 model of Mixtral's form of 1.4 GB, random weights.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

OURS = """
import sys, time
from gguf_hub.run.quants.quantize import quantize_file
from gguf_hub.run.quants.recipes import parse_file_type
source, target, name, threads = sys.argv[1:]
start = time.perf_counter()
quantize_file(source, target, parse_file_type(name), n_threads=int(threads))
print(time.perf_counter() - start)
"""
THEIRS = """
import ctypes, sys, time
import llama_cpp
quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
llama_cpp.llama_log_set(quiet, None)
source, target, file_type, threads = sys.argv[1:]
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.nthread = int(file_type), int(threads)
start = time.perf_counter()
failed = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
print(time.perf_counter() - start)
sys.exit(failed)
"""
TYPES = ("Q2_K", "Q3_K_M", "Q4_0", "Q4_K_M", "Q5_0", "Q5_K_M", "Q6_K", "Q8_0")


def make(path: Path) -> None:
    from tests.synth import Shape, write_mixtral

    shape = Shape(n_layer=2, n_embd=2048, n_head=16, n_head_kv=4, n_ff=5632)
    write_mixtral(path, shape, layout="merged", recipe="F16")


def seconds(python: str, code: str, *arguments: str) -> float:
    """Run a program and return the seconds that it printed."""
    command = [python, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def compare(
    source: Path, name: str, peer: str, rounds: int, threads: int
) -> tuple[list[float], list[float]]:
    """Return the seconds of each of our runs and of each of theirs, taken in turns."""
    from gguf_hub.gguf.types import FileType

    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        target = str(Path(folder) / "out.gguf")
        mine = (str(source), target, name, str(threads))
        other = (str(source), target, str(int(FileType[name])), str(threads))
        seconds(sys.executable, OURS, *mine)  # compiles, and brings the input into memory
        for _ in range(rounds):
            Path(target).unlink(missing_ok=True)
            ours.append(seconds(sys.executable, OURS, *mine))
            Path(target).unlink(missing_ok=True)
            theirs.append(seconds(peer, THEIRS, *other))
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", help="interpreter that has llama_cpp")
    parser.add_argument("--make", type=Path, metavar="FILE", help="write the input and stop")
    parser.add_argument("--source", type=Path, help="an F16 model; made when absent")
    parser.add_argument("--types", nargs="+", default=TYPES, choices=TYPES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.make:
        make(options.make)
        return
    if not options.peer:
        parser.error("--peer is needed")
    source = options.source or Path(tempfile.gettempdir()) / "gguf-hub-bench-f16.gguf"
    if not source.is_file():
        make(source)
    print(f"{source.stat().st_size / 1e9:.2f} GB F16, {options.threads} threads, "
          f"{options.rounds} rounds, load {os.getloadavg()[0]:.1f}: medians")  # fmt: skip
    print(f"{'type':8} {'gguf-hub s':>11} {'llama.cpp s':>12} {'ratio':>7}")
    for name in options.types:
        ours, theirs = compare(source, name, options.peer, options.rounds, options.threads)
        mine, other = statistics.median(ours), statistics.median(theirs)
        print(f"{name:8} {mine:11.2f} {other:12.2f} {other / mine:7.2f}", flush=True)


if __name__ == "__main__":
    main()
