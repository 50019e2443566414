"""Speed and memory of the runner against llama.cpp, in turns, on Mixtral-shaped files.

    python benchmarks/vs_llama_cpp.py --peer PYTHON [--types Q4_0 ...] [--cells pp256 tg0 ...]
        [--threads 1 2] [--rounds 5] [--layers 2] [--busy N] [--json FILE] [--keep DIR]
        [--least-memory GB_PER_S]
    python benchmarks/vs_llama_cpp.py --report FILE

PYTHON is the interpreter of an environment with llama-cpp-python, built for this machine from its
source package. Files have Mixtral's full width (4096/14336, 8 experts) and few layers, the card's
mix and random weights; gguf-hub reads the split layout, llama.cpp the merged one. ``--types``
takes other architectures, too (``wide_models.py``), which both read as they are. Each program is
one process that is told to measure by a pipe, so loading is not repeated and rounds alternate:
gguf-hub, llama.cpp plain, llama.cpp with repacked weights (its default). Of the last two the better
one counts, cell by cell. Figures are medians.

Cells: ``pp32 pp256 pp512`` prompts, ``tg0 tg2048 tg8192`` generation behind that many tokens,
``start`` from the start of the process to the first token of a 16-token prompt (kernels compiled,
file in memory), ``memory`` peaks. ``--json FILE`` keeps every sample; a later run adds its types,
threads and cells to it, so that the whole can be measured in slices; ``--report`` prints all.
``--busy N`` has N other processes compute all the while, as on a machine that is used.

What memory gives two cores of a virtual machine changes by half from minute to minute, with where
its host runs them, and the less it gives the nearer to it are both programs. ``--least-memory 65``
counts a round of generating only if memory gave 65 GB/s before and after it; how many rounds were
left out for that, and what they measured, is kept in the file and printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "bench"  # of the programs that keep what they build
sys.path.insert(0, str(ROOT))

TYPES = ("Q2_K", "Q3_K_M", "Q4_0", "Q4_K_M", "Q5_0", "Q5_K_M", "Q6_K", "Q8_0")
FLOATS = ("F16", "BF16", "F32")  # measured when they are asked for
WIDE = (
    "llama-3.1-8b",
    "qwen3-30b-a3b",
    "gpt-oss-20b",
    "gemma-3-12b",
    "mixtral-IQ4_XS",
    "mixtral-IQ3_S",
    "mixtral-IQ2_XS",
)  # the same, of `wide_models.py`
CELLS = ("pp32", "pp256", "pp512", "tg0", "tg2048", "tg8192", "start", "memory")
PROGRAMS = ("ours", "plain", "repack")
N_DECODE = 16
PAUSE_S = 0.05  # for the other program's threads to go to sleep
MOST_LEFT_OUT = 400  # rounds of a cell


class Worker:
    """One program in a process of its own; ``root`` is where its sources are."""

    def __init__(self, name: str, python: str, root: Path = ROOT) -> None:
        self.process = subprocess.Popen(
            [python, str(root / "benchmarks" / "vs_workers.py"), "serve", name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(root)},
        )  # fmt: skip

    def ask(self, op: str, **arguments: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        print(json.dumps({"op": op, **arguments}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args}: ended at `{op}`")
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def write_files(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """Write the model for each program; a file that is there already is used."""
    from benchmarks.wide_models import MODELS, write_wide
    from tests.synth import Shape, write_mixtral

    if name in MODELS:
        path = folder / f"{name}-{options.layers}l.gguf"
        if not path.is_file():
            write_wide(path.with_suffix(".new"), name, options.layers).replace(path)
        return {"ours": path, "theirs": path}
    layouts = {"ours": options.layout, "theirs": "merged"}
    paths = {}
    for who, layout in layouts.items():
        path = paths[who] = folder / f"mixtral-{options.layers}l-{layout}.{name}.gguf"
        if not path.is_file():
            new = path.with_suffix(".new")
            write_mixtral(new, Shape(n_layer=options.layers), layout=layout, recipe=name)
            new.replace(path)
    return paths


def bring_into_memory(path: Path) -> None:
    """Read a file through, as a system may have put idle pages out."""
    buffer = bytearray(1 << 24)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def cache_file(
    options: argparse.Namespace, folder: Path, n_depth: int, cache_type: str = "F16"
) -> str:
    """Return llama.cpp's cache of ``n_depth`` tokens, made by a small model of equal caches."""
    from tests.synth import Shape, write_mixtral

    target = folder / f"cache-{options.layers}l-{n_depth}-{cache_type}.state"
    if not target.is_file():
        model = folder / "attention-only.gguf"
        shape = Shape(n_layer=options.layers, n_embd=1024, n_head=8, n_ff=256, n_expert=0)
        write_mixtral(model, shape, recipe="Q8_0")
        worker = Worker("plain", options.peer)
        worker.ask("open", path=str(model), n_threads=max(options.threads), n_ctx=n_depth + 64,
                   cache_type=cache_type, is_source=True)  # fmt: skip
        worker.ask("save", n_depth=n_depth, target=str(target))
        worker.close()
        model.unlink()
    return str(target)


def measure_type(
    name: str, options: argparse.Namespace, folder: Path, record: dict[str, Any]
) -> None:
    """Measure all cells of a type; put them into ``record``."""
    paths = write_files(name, options, folder)
    depths = [int(cell[2:]) for cell in options.cells if cell.startswith("tg")]
    deepest = max(depths, default=0)
    state = cache_file(options, folder, deepest) if deepest else None
    workers = {}
    for program in PROGRAMS:
        python = sys.executable if program == "ours" else options.peer
        workers[program] = Worker(program, python)
    files = {program: str(paths["ours" if program == "ours" else "theirs"]) for program in PROGRAMS}
    n_ctx = max(1024, deepest + 2 * N_DECODE)
    for program in ("plain", "repack"):
        workers[program].ask("open", path=files[program], n_threads=1, n_ctx=n_ctx)
    anon = dict.fromkeys(PROGRAMS, 0)
    for n_threads in options.threads:
        facts = workers["ours"].ask("open", path=files["ours"], n_threads=n_threads, n_ctx=n_ctx)
        for program in ("plain", "repack"):
            workers[program].ask("threads", n_threads=n_threads)
        for cell in options.cells:
            if cell == "memory":
                continue
            for path in paths.values():
                bring_into_memory(path)
            rates: list[float] = []
            if cell == "start":
                samples = start_times(files, n_threads, options)
            else:
                samples, rates, left_out = rounds(workers, cell, state, options, n_threads)
                facts["left_out"] = left_out
            put(record, name, n_threads, cell, samples, {**facts, "read_bytes_per_s": rates})
            for program in PROGRAMS:
                now = workers[program].ask("memory")["anon_bytes"]
                anon[program] = max(anon[program], now)
    if "memory" in options.cells:
        peaks = {p: [workers[p].ask("memory")["peak_bytes"]] for p in PROGRAMS}
        put(record, name, 0, "peak", peaks, {})
        put(record, name, 0, "anon", {p: [anon[p]] for p in PROGRAMS}, {})
    for worker in workers.values():
        worker.close()


def speed(worker: Worker, cell: str, state: str | None = None) -> float:
    """Tokens per second of a cell, such as ``pp256``; ``state`` fills llama.cpp's cache."""
    time.sleep(PAUSE_S)
    number = int(cell[2:])
    if cell.startswith("pp"):
        return float(number / worker.ask("prompt", n=number))
    return float(N_DECODE / worker.ask("decode", n=N_DECODE, n_depth=number, state=state))


def rounds(
    workers: dict[str, Worker],
    cell: str,
    state: str | None,
    options: argparse.Namespace,
    n_threads: int,
) -> tuple[dict[str, list[float]], list[float], list[dict[str, float]]]:
    """Tokens per second of each program, in turns, and bytes per second of each round.

    A first round is left out, and so are those of generating in which memory gave less than
    ``options.least_memory``; the third list has them.
    """
    least = options.least_memory * 1e9

    def bandwidth() -> float:
        """What memory gives now; of prompts, which hardly wait for it, it is not measured."""
        is_read = cell.startswith("tg")
        return workers["ours"].ask("bandwidth", n_threads=n_threads) if is_read else math.inf

    for program in PROGRAMS:
        speed(workers[program], cell, state)
    found: list[dict[str, float]] = []
    left_out: list[dict[str, float]] = []
    before = bandwidth()
    while len(found) < options.rounds and len(left_out) < MOST_LEFT_OUT:
        first = len(found) + len(left_out)
        order = [PROGRAMS[(first + j) % len(PROGRAMS)] for j in range(len(PROGRAMS))]
        one = {program: speed(workers[program], cell, state) for program in order}
        after = bandwidth()
        one["read_bytes_per_s"] = min(before, after)
        (found if one["read_bytes_per_s"] >= least else left_out).append(one)
        before = after
    if len(found) < options.rounds:
        raise SystemExit(f"{cell}: memory gave less than {options.least_memory} GB/s in "
                         f"{len(left_out)} of {len(left_out) + len(found)} rounds")  # fmt: skip
    samples = {program: [one[program] for one in found] for program in PROGRAMS}
    rates = [one["read_bytes_per_s"] for one in found if cell.startswith("tg")]
    return samples, rates, left_out


def start_times(
    files: dict[str, str], n_threads: int, options: argparse.Namespace
) -> dict[str, list[float]]:
    """Seconds from the start of a process to its first token; a first round does not count."""
    samples: dict[str, list[float]] = {program: [] for program in PROGRAMS}
    script = str(ROOT / "benchmarks" / "vs_workers.py")
    for i in range(options.rounds + 1):
        for j in range(len(PROGRAMS)):
            program = PROGRAMS[(i + j) % len(PROGRAMS)]
            python = sys.executable if program == "ours" else options.peer
            began = time.perf_counter()
            with subprocess.Popen(
                [python, script, "first", program, files[program], str(n_threads)],
                stdout=subprocess.PIPE,
                text=True,
            ) as process:
                assert process.stdout
                if not process.stdout.readline().strip().isdigit():
                    raise SystemExit(f"{program}: no first token")
                if i:
                    samples[program].append(time.perf_counter() - began)
    return samples


def put(
    record: dict[str, Any],
    name: str,
    n_threads: int,
    cell: str,
    samples: dict[str, list[Any]],
    facts: dict[str, Any],
) -> None:
    """Add a cell to the record, show it, and take the place of an earlier one."""
    row = {"type": name, "threads": n_threads, "cell": cell, "samples": samples, **facts}
    key = (name, n_threads, cell)
    record["rows"] = [r for r in record["rows"] if (r["type"], r["threads"], r["cell"]) != key]
    record["rows"].append(row)
    print("  ".join(line(row)), flush=True)


# -- what is shown -------------------------------------------------------------------------------


def is_rate(cell: str) -> bool:
    return cell[:2] in ("pp", "tg")


def verdict(row: dict[str, Any]) -> tuple[float, float, str, float]:
    """Median of ours, of the better of theirs, which that was, and the ratio: above 1 we win."""
    medians = {program: statistics.median(values) for program, values in row["samples"].items()}
    choose = max if is_rate(row["cell"]) else min
    best = choose(("plain", "repack"), key=lambda program: medians[program])
    ours, theirs = medians["ours"], medians[best]
    return ours, theirs, best, ours / theirs if is_rate(row["cell"]) else theirs / ours


def ratio_of(left_out: list[dict[str, float]]) -> float:
    """The ratio of the medians of rounds that were left out; above 1 we win."""
    ours, *theirs = (statistics.median(one[p] for one in left_out) for p in PROGRAMS)
    return ours / max(theirs)


def read_rate(row: dict[str, Any]) -> tuple[float, float]:
    """Bytes a second that ours reads while it generates, and what memory gave meanwhile."""
    n_before = int(row["cell"][2:]) + N_DECODE // 2
    size_bytes = row["active_bytes"] + row["cache_bytes"] * n_before
    return verdict(row)[0] * size_bytes, statistics.median(row["read_bytes_per_s"])


def line(row: dict[str, Any]) -> list[str]:
    """The cells of a row as text."""
    ours, theirs, best, ratio = verdict(row)
    cell = row["cell"]
    scale, unit = (1, "tok/s") if is_rate(cell) else (1, "s") if cell == "start" else (1e6, "MB")
    share = ""
    if cell.startswith("tg"):
        rate, limit = read_rate(row)
        share = f"{rate / 1e9:5.1f} of {limit / 1e9:.1f} GB/s = {rate / limit:.0%} of memory"
        if left_out := row.get("left_out"):
            share += f"; {len(left_out)} rounds left out: {ratio_of(left_out):.2f}"
    threads = f"{row['threads']}t" if row["threads"] else "  "
    return [f"{row['type']:7}", threads, f"{cell:7}", f"{ours / scale:9.2f}",
            f"{theirs / scale:9.2f} {unit:5}", f"({best:6})", f"{ratio:6.2f}", share]  # fmt: skip


def report(record: dict[str, Any]) -> None:
    """Print all rows, then the geometric mean of each cell over its types."""
    shown = (*CELLS[:-1], "peak", "anon")
    order = {
        (t, c): (i, j) for i, c in enumerate(shown) for j, t in enumerate(TYPES + FLOATS + WIDE)
    }
    rows = sorted(record["rows"], key=lambda r: (r["threads"], order[r["type"], r["cell"]]))
    load = f"; {record['busy']} busy neighbours" if record.get("busy") else ""
    if record.get("least_memory"):
        load += f"; rounds of generating in which memory gave {record['least_memory']:g} GB/s"
    print(f"\n{record['cpu']}; {record['layers']} layers{load}")
    print(f"{'type':7}      {'cell':7}  {'gguf-hub':>9}  {'llama.cpp':>9}{'':18}{'ratio':>6}")
    groups: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        print("  ".join(line(row)))
        groups.setdefault((row["threads"], row["cell"]), []).append(verdict(row)[3])
    print("\ngeometric means over the types (above 1: gguf-hub is ahead)")
    for (n_threads, cell), ratios in groups.items():
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        threads = f"{n_threads}t" if n_threads else "  "
        print(f"{threads}  {cell:7}  {mean:5.2f}   least {min(ratios):5.2f}   {len(ratios)} types")
    scaling(rows)


def scaling(rows: list[dict[str, Any]]) -> None:
    """Print how much faster two threads are than one, for each type that has both."""
    rates = {(r["type"], r["cell"], r["threads"]): verdict(r)[:2] for r in rows}
    limits = {
        (r["type"], r["cell"], r["threads"]): statistics.median(r["read_bytes_per_s"])
        for r in rows
        if r.get("read_bytes_per_s")
    }
    for key in rates:
        before = (*key[:2], 1)
        if key[2] == 2 and is_rate(key[1]) and before in rates:
            gains = [two / one for two, one in zip(rates[key], rates[before], strict=True)]
            memory = f", memory {limits[key] / limits[before]:.2f}" if key in limits else ""
            print(f"two threads against one: {key[0]:7} {key[1]:7} {gains[0]:.2f} "
                  f"(llama.cpp {gains[1]:.2f}{memory})")  # fmt: skip


@contextlib.contextmanager
def busy(n: int) -> Iterator[None]:
    """Have ``n`` processes take a core each."""
    neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()


def load_record(options: argparse.Namespace) -> dict[str, Any]:
    """What an earlier slice wrote, or an empty record."""
    from gguf_hub.resources.cpus import cpu_name

    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    empty = {
        "cpu": cpu_name(Path("/")), "layers": options.layers, "busy": options.busy,
        "isa": os.environ.get("GGUF_HUB_ISA", ""), "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(), "least_memory": options.least_memory, "rows": [],
    }  # fmt: skip
    if options.json and options.json.is_file():
        found: dict[str, Any] = json.loads(options.json.read_text())
        same = ("cpu", "layers", "busy", "isa", "commit", "least_memory")
        if [found.get(key) for key in same] == [empty[key] for key in same]:
            return found
        raise SystemExit(
            f"{options.json} is of another machine, commit, load or of other files\n"
            "hint: move it away to measure anew"
        )
    return empty


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", help="interpreter that has llama_cpp")
    parser.add_argument("--types", nargs="+", default=TYPES, choices=TYPES + FLOATS + WIDE)
    parser.add_argument("--cells", nargs="+", default=CELLS, choices=CELLS)
    parser.add_argument("--threads", nargs="+", type=int, default=(1, 2))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="other busy processes")
    parser.add_argument(
        "--least-memory",
        type=float,
        default=0.0,
        metavar="GB_PER_S",
        help="leave out rounds of generating in which memory gave less",
    )
    parser.add_argument("--layout", default="split", choices=("split", "merged"), help="of ours")
    parser.add_argument("--json", type=Path, metavar="FILE", help="add every sample to FILE")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write models there, leave them")
    parser.add_argument("--report", type=Path, metavar="FILE", help="print what FILE holds")
    options = parser.parse_args()
    if not options.report and not options.peer:
        parser.error("--peer is needed")
    return options


def main() -> None:
    options = parse()
    if options.report:
        report(json.loads(options.report.read_text()))
        return
    record = load_record(options)
    print(f"load {os.getloadavg()[0]:.1f}, {options.rounds} rounds", flush=True)
    with tempfile.TemporaryDirectory(prefix="gguf-hub-vs-") as temporary, busy(options.busy):
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.types:
            measure_type(name, options, folder, record)
            if options.json:
                options.json.write_text(json.dumps(record, indent=1))
            if not options.keep:
                for path in folder.glob(f"*.{name}.gguf"):
                    path.unlink()
    report(record)


if __name__ == "__main__":
    main()
