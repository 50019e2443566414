"""Speed of quantising, ours against llama.cpp's, in turns on one file.

    python benchmarks/quantize.py --peer PYTHON [--rounds 5] [--threads 2] [--types Q4_0 Q4_K_M]
    python benchmarks/quantize.py --peer PYTHON --imatrix --size small

PYTHON is the interpreter of an environment with llama-cpp-python (built for this machine). Each
program runs in a process of its own and times its own call: reading a file that lies in the page
cache, computing, writing. Ours also brings the file to the disk before it takes its name.
The input is an F16 model of Mixtral's form, random weights: 1.4 GB (`--size large`), 0.4 GB, 50
or 20 MB; ``--make FILE`` writes it and stops. With ``--imatrix`` both get the same random matrix,
and all types that use one are measured; those that llama.cpp takes minutes for on the smallest
input, as their time is in proportion to the weights.
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
from pathlib import Path
from gguf_hub.run.quants.imatrix_file import read_imatrix
from gguf_hub.run.quants.quantize import quantize_file
from gguf_hub.run.quants.recipes import parse_file_type
source, target, name, threads, matrix = sys.argv[1:]
imatrix = read_imatrix(Path(matrix)) if matrix else None
start = time.perf_counter()
quantize_file(source, target, parse_file_type(name), imatrix=imatrix, n_threads=int(threads))
print(time.perf_counter() - start)
"""
THEIRS = """
import ctypes, sys, time
import llama_cpp
import numpy as np
quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
llama_cpp.llama_log_set(quiet, None)
source, target, file_type, threads, matrix = sys.argv[1:]
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.nthread = int(file_type), int(threads)
means = dict(np.load(matrix)) if matrix else {}
rows = (llama_cpp.llama_model_imatrix_data * (len(means) + 1))()  # the last one has no name
for row, (name, values) in zip(rows, means.items()):
    row.name, row.size = name.encode(), values.size
    row.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
if means:
    params.imatrix = rows
start = time.perf_counter()
failed = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
print(time.perf_counter() - start)
sys.exit(failed)
"""
TYPES = ("Q2_K", "Q3_K_M", "Q4_0", "Q4_K_M", "Q5_0", "Q5_K_M", "Q6_K", "Q8_0")
FAST_WITH_MATRIX = (
    "Q2_K", "Q3_K_M", "Q4_0", "Q4_1", "Q4_K_M", "Q5_0", "Q5_1", "Q5_K_M", "Q6_K", "IQ4_NL",
    "IQ4_XS",
)  # fmt: skip
SLOW_WITH_MATRIX = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")
WITH_MATRIX = (*FAST_WITH_MATRIX, *SLOW_WITH_MATRIX)
SIZES = {
    "large": {"n_layer": 2, "n_embd": 2048, "n_head": 16, "n_head_kv": 4, "n_ff": 5632},
    "medium": {"n_layer": 1, "n_embd": 2048, "n_head": 16, "n_head_kv": 4, "n_ff": 3584,
               "n_vocab": 2048},
    "small": {"n_layer": 1, "n_embd": 1024, "n_head": 8, "n_head_kv": 2, "n_ff": 768,
              "n_vocab": 1024},
    "tiny": {"n_layer": 1, "n_embd": 1024, "n_head": 8, "n_head_kv": 2, "n_ff": 256,
             "n_vocab": 512},
}  # fmt: skip
"""Shapes of the input: 700, 200, 24 and 10 million weights."""


def make(path: Path, size: str) -> None:
    from tests.synth import Shape, write_mixtral

    write_mixtral(path, Shape(**SIZES[size]), layout="merged", recipe="F16")


def make_matrix(source: Path, folder: Path) -> tuple[Path, Path]:
    """Write a random importance matrix of every tensor in layers, for us and for llama.cpp."""
    import numpy as np

    from gguf_hub.gguf.reader import GgufFile
    from gguf_hub.run.quants.imatrix import Entry, ImportanceMatrix
    from gguf_hub.run.quants.imatrix_file import write_imatrix

    rng, entries = np.random.default_rng(0), {}
    with GgufFile.open(source) as file:
        for name, info in file.tensors.items():
            if name.startswith("blk.") and len(info.shape) > 1:
                shape = (info.shape[2] if len(info.shape) > 2 else 1, info.shape[0])
                values = rng.lognormal(0, 1, shape).astype(np.float32)
                entries[name] = Entry(values, np.ones(shape[0], np.int64))
    ours, theirs = folder / "imatrix.gguf", folder / "imatrix.npz"
    write_imatrix(ours, ImportanceMatrix(entries, ("random",), 1, 1))
    np.savez(theirs, **{name: entry.means for name, entry in entries.items()})
    return ours, theirs


def seconds(python: str, code: str, *arguments: str) -> float:
    """Run a program and return the seconds that it printed."""
    command = [python, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def compare(
    source: Path, name: str, peer: str, rounds: int, threads: int, *, has_matrix: bool
) -> tuple[list[float], list[float]]:
    """Return the seconds of each of our runs and of each of theirs, taken in turns."""
    from gguf_hub.gguf.types import FileType

    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        target = str(Path(folder) / "out.gguf")
        matrices = make_matrix(source, Path(folder)) if has_matrix else ("", "")
        mine = (str(source), target, name, str(threads), str(matrices[0]))
        other = (str(source), target, str(int(FileType[name])), str(threads), str(matrices[1]))
        seconds(sys.executable, OURS, *mine)  # compiles, and brings the input into memory
        for _ in range(rounds):
            Path(target).unlink(missing_ok=True)
            ours.append(seconds(sys.executable, OURS, *mine))
            Path(target).unlink(missing_ok=True)
            theirs.append(seconds(peer, THEIRS, *other))
    return ours, theirs


def source_of(options: argparse.Namespace, name: str) -> Path:
    """Return the input for a type, made where it is absent."""
    is_slow = options.imatrix and name in SLOW_WITH_MATRIX
    size = "tiny" if is_slow else options.size
    path = Path(tempfile.gettempdir()) / f"gguf-hub-bench-f16-{size}.gguf"
    if options.source:
        return Path(options.source)
    if not path.is_file():
        make(path, size)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", help="interpreter that has llama_cpp")
    parser.add_argument("--make", type=Path, metavar="FILE", help="write the input and stop")
    parser.add_argument("--size", choices=SIZES, default="large", help="of the input")
    parser.add_argument("--source", type=Path, help="another input, for all types")
    parser.add_argument("--imatrix", action="store_true", help="with an importance matrix")
    parser.add_argument("--types", nargs="+", choices=(*WITH_MATRIX, "Q8_0"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.make:
        make(options.make, options.size)
        return
    if not options.peer:
        parser.error("--peer is needed")
    types = options.types or (WITH_MATRIX if options.imatrix else TYPES)
    print(f"F16, {options.threads} threads, {options.rounds} rounds, "
          f"load {os.getloadavg()[0]:.1f}: medians")  # fmt: skip
    print(f"{'type':8} {'input GB':>9} {'gguf-hub s':>11} {'llama.cpp s':>12} {'ratio':>7}")
    for name in types:
        source = source_of(options, name)
        ours, theirs = compare(source, name, options.peer, options.rounds, options.threads,
                               has_matrix=options.imatrix)  # fmt: skip
        mine, other = statistics.median(ours), statistics.median(theirs)
        size = source.stat().st_size / 1e9
        print(f"{name:8} {size:9.2f} {mine:11.2f} {other:12.2f} {other / mine:7.2f}", flush=True)


if __name__ == "__main__":
    main()
