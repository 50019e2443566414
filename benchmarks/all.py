"""The tables of docs/speed.md against llama.cpp, measured on this machine and written there.

    python benchmarks/all.py              # `make bench`: an hour or two, nothing else running
    python benchmarks/all.py --only types avx2
    python benchmarks/all.py --page       # write the page again from samples that are there

Builds llama-cpp-python from its source package for what the kernels of a table may use, once, in
``build/bench``; samples stay there, too. A table is what stands between ``<!-- NAME -->`` and
``<!-- /NAME -->``. Each says machine, date, commit, what memory gave, and how far samples spread;
what is generated has the share of what memory gave.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.vs_llama_cpp import FLOATS, ROOT, WIDE, WORK, read_rate, verdict

PAGE = ROOT / "docs" / "speed.md"
PEER = "llama-cpp-python==0.3.36"
X86 = platform.machine().lower() in ("x86_64", "amd64")
NAMES = {"pp": "prompt {}", "tg": "generate behind {}", "tg0": "generate",
         "start": "start to first token"}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """One run of ``vs_llama_cpp.py``.

    Attributes:
        name: As the page marks it.
        cells: What is measured.
        types: Of which files; the usual ones if none.
        threads: On how many threads.
        busy: Other processes that compute meanwhile.
        isa: Instruction set that both programs are held to; the best of the machine if empty.
    """

    name: str
    cells: Sequence[str]
    types: Sequence[str] = ()
    threads: Sequence[int] = (2,)
    busy: int = 0
    isa: str = ""

    def command(self, peer: str) -> list[str]:
        """Return the arguments of the run, as the page prints them."""
        command = ["benchmarks/vs_llama_cpp.py", "--peer", peer]
        command += ["--threads", *map(str, self.threads), "--cells", *self.cells]
        command += ["--types", *self.types] if self.types else []
        return command + (["--busy", str(self.busy)] if self.busy else [])


TABLES = (
    Table("types", ("pp32", "pp256", "pp512", "tg0", "tg8192", "start")),
    Table("avx2", ("pp256", "tg0"), isa="avx2"),
    Table("floats", ("pp32", "pp256", "tg0"), FLOATS[:2]),
    Table("models", ("pp256", "tg0"), WIDE),
    Table("busy", ("tg0",), ("Q4_0", "Q4_K_M", "Q8_0"), (1, 2), busy=1),
)


def peer_of(isa: str) -> Path:
    """Return the interpreter of an environment with llama.cpp, built for an instruction set."""
    folder = WORK / f"llama-cpp-{isa or 'native'}"
    python = folder / "bin" / "python"
    if not (folder / "is-complete").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        flags = "-DGGML_NATIVE=OFF -DGGML_AVX512=OFF" if isa else "-DGGML_NATIVE=ON"
        print(f"building {PEER} ({flags}): some ten minutes", file=sys.stderr)
        # a wheel of the cache may have been built for other instructions
        build = ["install", "--quiet", "--no-cache-dir", "--no-binary", "llama-cpp-python", PEER]
        subprocess.run(
            [python, "-m", "pip", *build], check=True, env={**os.environ, "CMAKE_ARGS": flags}
        )
        (folder / "is-complete").touch()
    return python


def measure(table: Table, rounds: int) -> None:
    """Write the samples of a table, or what is missing of them."""
    environment = {**os.environ, "GGUF_HUB_ISA": table.isa} if table.isa else {**os.environ}
    record = ["--rounds", str(rounds), "--json", str(samples_of(table)), "--keep", str(WORK)]
    command = table.command(str(peer_of(table.isa)))
    code = subprocess.run([sys.executable, *command, *record], cwd=ROOT, env=environment).returncode
    if code != 0:  # it has said why
        sys.exit(code)


def samples_of(table: Table) -> Path:
    return WORK / f"{table.name}.json"


# -- the page --------------------------------------------------------------------------------------


def rendered(table: Table, record: dict[str, Any]) -> str:
    """Return a table as Markdown: tok/s of both programs, ratios, and where they are from."""
    columns = [(cell, n) for n in table.threads for cell in table.cells]
    rows = {(row["type"], row["cell"], row["threads"]): row for row in record["rows"]}
    types = list(dict.fromkeys(row["type"] for row in record["rows"]))
    titles = [_title(cell, n, table) for cell, n in columns]
    lines = [f"| | {' | '.join(titles)} |", "|---" * (len(columns) + 1) + "|"]
    ratios: dict[tuple[str, int], list[float]] = {column: [] for column in columns}
    for type_ in types:
        cells = []
        for column in columns:
            row = rows[(type_, *column)]
            ours, theirs, _, ratio = verdict(row)
            ratios[column].append(ratio)
            read, given = read_rate(row) if column[0].startswith("tg") else (0, 1)
            share = f", {read / given:.0%}" if read else ""
            cells.append(f"{_figure(ours)} / {_figure(theirs)} ({ratio:.2f}){share}")
        lines.append(f"| {type_} | {' | '.join(cells)} |")
    means = [f"{math.exp(statistics.fmean(map(math.log, ratios[c]))):.2f}" for c in columns]
    lines.append(f"| geometric mean | {' | '.join(means)} |")
    return "\n".join([_where(table, record), "", *lines])


def _title(cell: str, n_threads: int, table: Table) -> str:
    title = NAMES.get(cell) or NAMES[cell[:2]].format(f"{int(cell[2:]):,}")
    threads = f", {n_threads} thread{'s' * (n_threads > 1)}"
    return title + (threads if len(table.threads) > 1 else "")


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _where(table: Table, record: dict[str, Any]) -> str:
    spreads = [_spread(row["samples"]["ours"]) for row in record["rows"]]
    rates = [rate / 1e9 for row in record["rows"] for rate in row.get("read_bytes_per_s") or ()]
    memory = f"; memory gave {min(rates):.0f} to {max(rates):.0f} GB/s" if rates else ""
    held = f", both programs held to {table.isa.upper()}" if table.isa else ""
    busy = f", {table.busy} other busy process" if table.busy else ""
    return (
        f"{record['cpu']}, {record['date']}, commit {record['commit']}{held}{busy}{memory}; the\n"
        f"samples of a cell spread by {statistics.median(spreads):.0%} (median), "
        f"{max(spreads):.0%} at most:\n\n"
        f"```sh\npython {' '.join(table.command('PYTHON'))}\n```"
    )


def _spread(samples: Sequence[float]) -> float:
    return (max(samples) - min(samples)) / statistics.median(samples)


def write_page(text: str, tables: dict[str, str]) -> str:
    """Return the page with tables in the places that are marked for them."""
    for name, table in tables.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if begin not in text or end not in text:
            raise SystemExit(f"{PAGE}: expected a place `{begin.strip()}` ... `{end}`")
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{table}\n\n{end}{rest.partition(end)[2]}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[table.name for table in TABLES])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--page", action="store_true", help="measure nothing")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    tables = {}
    for table in TABLES:
        if (options.only and table.name not in options.only) or (table.isa and not X86):
            continue
        if not options.page:
            measure(table, options.rounds)
        if samples_of(table).exists():
            tables[table.name] = rendered(table, json.loads(samples_of(table).read_text()))
    PAGE.write_text(write_page(PAGE.read_text("utf-8"), tables), "utf-8")
    print(f"written: {', '.join(tables)} in {PAGE}")


if __name__ == "__main__":
    main()
