"""Time of a token against its position, up to 32k, with keys and values in F16 and in Q8_0.

    python benchmarks/long_context.py [--peer PYTHON] [--rounds 3] [--threads 2] [--keep DIR]
        [--plot FILE.svg]

A model of Mixtral's full width with few layers and random weights. PYTHON is the interpreter of an
environment with llama-cpp-python (see ``vs_llama_cpp.py``), which computes in turns with gguf-hub.
Prints two tables, medians in milliseconds a token: one token alone, and a batch of 512 of a prompt,
at each position. Below each stand the milliseconds that 1,000 positions add (a line through all
points, by least squares), and of prompts the speed of 8k tokens as a share of the first 512.
``--plot`` draws both tables (matplotlib).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.vs_llama_cpp import FLOATS, N_DECODE, TYPES, Worker, cache_file, write_files

POSITIONS = (0, 1024, 2048, 4096, 8192, 16384, 32256)
PROMPT_POSITIONS = (0, 2048, 4096, 7680, 16384, 32256)
N_BATCH, N_LONG, DEPTH = 512, 8192, 32256
CACHE_TYPES = ("F16", "Q8_0")
ONE, MANY = "one token, ms", f"a token of a batch of {N_BATCH}, ms"

Times = dict[str, dict[int, list[float]]]
"""Program -> position -> milliseconds a token of each round."""


def open_workers(options: argparse.Namespace, folder: Path) -> dict[str, tuple[Worker, str | None]]:
    """Return each program with its model open, and the file that its cache is filled from."""
    paths = write_files(options.type, options, folder)
    workers: dict[str, tuple[Worker, str | None]] = {}
    for cache_type in CACHE_TYPES:
        shared = {"n_threads": options.threads[0], "n_ctx": 32768, "cache_type": cache_type}
        worker = Worker("ours", sys.executable)
        worker.ask("open", path=str(paths["ours"]), **shared)
        workers[f"gguf-hub {cache_type}"] = worker, None
        if options.peer:
            state = cache_file(options, folder, DEPTH, cache_type)
            worker = Worker(options.program, options.peer)
            worker.ask("open", path=str(paths["theirs"]), **shared)
            workers[f"llama.cpp {cache_type}"] = worker, state
    return workers


def measure(
    workers: dict[str, tuple[Worker, str | None]], op: str, n: int, positions: tuple[int, ...],
    n_rounds: int,
) -> Times:  # fmt: skip
    """Let programs take turns at each position; a first round does not count."""
    times: Times = {name: {at: [] for at in positions} for name in workers}
    for i in range(n_rounds + 1):
        for at in positions if i else positions[:1]:
            for name, (worker, state) in workers.items():
                seconds = worker.ask(op, n=n, n_depth=at, state=state)
                if i:
                    times[name][at].append(1e3 * seconds / n)
    return times


def print_table(title: str, times: Times, positions: tuple[int, ...]) -> None:
    names = list(times)
    print(f"\n{title}")
    print("  ".join(["position", *(f"{name:>14}" for name in names)]))
    medians = {n: [statistics.median(times[n][at]) for at in positions] for n in names}
    for i, at in enumerate(positions):
        print("  ".join([f"{at:>8}", *(f"{medians[name][i]:>14.3f}" for name in names)]))
    slopes = [np.polyfit(np.array(positions) / 1e3, medians[name], 1)[0] for name in names]
    print("  ".join(["  per 1k", *(f"{slope:>14.4f}" for slope in slopes)]))


def print_share(times: Times) -> None:
    """Print how fast a prompt of 8k tokens is, of the speed of its first batch."""
    starts = np.arange(0, N_LONG, N_BATCH)
    shares = []
    for by_position in times.values():
        known = [at for at in by_position if at < N_LONG]
        medians = [statistics.median(by_position[at]) for at in known]
        shares.append(medians[0] / np.interp(starts, known, medians).mean())
    print("  ".join(["8k / 512", *(f"{share:>14.3f}" for share in shares)]))


def draw(tables: dict[str, Times], file: Path) -> None:
    """Draw medians against positions, one panel for each table, with a scale of powers."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.fonttype"] = "none"  # text stays text
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (title, times) in zip(figure.subplots(1, len(tables)), tables.items(), strict=True):
        for name, by_position in times.items():
            medians = [statistics.median(values) for values in by_position.values()]
            style = "o--" if name.endswith("Q8_0") else "o-"
            color = "tab:blue" if name.startswith("gguf-hub") else "tab:orange"
            axes.plot(list(by_position), medians, style, color=color, markersize=3, label=name)
        axes.set(title=title, xlabel="position", yscale="log")
        axes.grid(visible=True, which="both", alpha=0.3)
    figure.axes[0].legend()
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="Python with llama-cpp-python; gguf-hub alone without")
    parser.add_argument("--program", default="repack", choices=("plain", "repack"),
                        help="llama.cpp with or without repacked weights")  # fmt: skip
    parser.add_argument("--type", default="Q4_K_M", choices=(*TYPES, *FLOATS))
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--threads", type=int, nargs=1, default=[2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layout", default="split", help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help="folder for the files, which stay there")
    parser.add_argument("--plot", type=Path, help="SVG of both tables")
    options = parser.parse_args()
    if options.plot and not options.plot.parent.is_dir():  # not after minutes of measuring
        parser.error(f"--plot: no folder `{options.plot.parent}`")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        workers = open_workers(options, folder)
        tokens = measure(workers, "decode", N_DECODE, POSITIONS, options.rounds)
        print_table(ONE, tokens, POSITIONS)
        prompts = measure(workers, "behind", N_BATCH, PROMPT_POSITIONS, options.rounds)
        print_table(MANY, prompts, PROMPT_POSITIONS)
        print_share(prompts)
        if options.plot:
            draw({ONE: tokens, MANY: prompts}, options.plot)
        for worker, _ in workers.values():
            worker.close()


if __name__ == "__main__":
    main()
