"""What every quant type costs, with and without an importance matrix: the table of docs/quality.md.

    python benchmarks/quality.py [--types Q4_K_M IQ3_S ...] [--stories 400] [--threads 2]

tiny-mixtral is quantised to each type, and each file is compared with the F16 model on stories that
it has not seen. The matrix is of 150 other stories, of the kind that it was trained on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gguf_hub.gguf.types import FileType  # noqa: E402
from gguf_hub.run.quants.imatrix import ImportanceMatrix  # noqa: E402
from gguf_hub.run.quants.imatrix_file import read_imatrix  # noqa: E402
from gguf_hub.run.quants.plan import plan_quantize  # noqa: E402

MODEL = ROOT / "gguf_hub" / "data" / "tiny-mixtral.f16.gguf"
TYPES = tuple(t.name for t in FileType if t.name not in ("F32", "F16"))
N_MATRIX_STORIES, MATRIX_SEED = 150, 7


def gguf_hub(*arguments: object) -> str:
    """Run a command and return what it prints."""
    command = [sys.executable, "-m", "gguf_hub", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def write_stories(path: Path, *arguments: object) -> Path:
    """Write stories, as the model knows them."""
    command = [sys.executable, "-m", "tools.stories", "--bare", *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    path.write_text(done.stdout, encoding="utf-8")
    return path


def write_texts(folder: Path, n_stories: int) -> tuple[Path, Path, Path]:
    """Write stories never trained on, others, and the importance matrix of those."""
    held = write_stories(folder / "held.txt", "--count", n_stories, "--held-out")
    others = write_stories(
        folder / "others.txt", "--count", N_MATRIX_STORIES, "--seed", MATRIX_SEED
    )
    matrix = folder / "imatrix.gguf"
    gguf_hub("imatrix", MODEL, "--text", others, "-o", matrix, "--no-ppl")
    return held, others, matrix


def compare(
    models: list[Path], text: Path, threads: int, *, model: Path = MODEL
) -> list[dict[str, Any]]:
    """Return what `compare` measures of each file against the model that they are made of."""
    output = gguf_hub("compare", model, *models, "--text", text, "-t", threads, "--json")
    rows: list[dict[str, Any]] = json.loads(output)["models"][1:]
    return rows


def needs_matrix(name: str) -> bool:
    return any(part.needs_imatrix for part in plan_quantize(MODEL, FileType[name]).parts)


def uses_matrix(name: str, matrix: ImportanceMatrix) -> bool:
    parts = plan_quantize(MODEL, FileType[name], imatrix=matrix).parts
    return any(part.importance is not None for part in parts)


def cells(plain: dict[str, Any] | None, weighted: dict[str, Any] | None) -> list[str]:
    """Return the cells of a type; the two files differ a little in size where the mixes do."""
    found = [row["divergence"] if row else None for row in (plain, weighted)]
    return [
        f"{(weighted or plain or {})['bits_per_weight']:.2f}",
        *(f"{each['kl']['value']:.5f}" if each else "-" for each in found),
        *(f"{100 * each['same_top']['value']:.1f} %" if each else "-" for each in found),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--types", nargs="+", default=TYPES, choices=TYPES)
    parser.add_argument("--stories", type=int, default=400)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        held, _, matrix = write_texts(folder, options.stories)
        files = []
        for name in options.types:  # a file for each where it makes a difference
            for more in ([], ["--imatrix", matrix]):
                if needs_matrix(name) if not more else not uses_matrix(name, read_imatrix(matrix)):
                    continue
                file = folder / f"{name}{'+' if more else ''}.gguf"
                gguf_hub("quantize", MODEL, file, name, "-t", options.threads, *more)
                files.append(file)
        rows = {row["name"]: row for row in compare(files, held, options.threads)}
    print("| | bits per weight | KL divergence | with matrix | same top token | with matrix |")
    print("|---|---|---|---|---|---|")
    table = {name: cells(rows.get(name), rows.get(f"{name}+")) for name in options.types}
    for name in sorted(table, key=lambda each: float(table[each][0])):
        print(f"| {name} | {' | '.join(table[name])} |")


if __name__ == "__main__":
    main()
