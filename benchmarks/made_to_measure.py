"""Files made to measure against standard mixes of the same size, by KL divergence.

    python benchmarks/made_to_measure.py [--mixes Q2_K ...] [--stories 400] [--chunks 16]

Each mix is written with the importance matrix; `quantize --target-size` then gets the size of that
file. Matrix and text of the measurement are 150 stories of the kind that the model was trained on;
what is compared are stories that it has not seen. ``--model FILE --text FILE --held FILE`` take
another model and texts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.quality import MODEL, compare, gguf_hub, write_texts

MIXES = ("IQ2_XS", "Q2_K", "IQ3_M", "Q4_K_M", "Q5_K_M")


def make(
    model: Path, mix: str, folder: Path, matrix: Path, measuring: list[object], threads: int
) -> list[Path]:
    """Write a mix, and a file of its size."""
    files = [folder / f"{mix}.gguf", folder / f"{mix}.measured.gguf"]
    shared = ["--imatrix", matrix, "-t", threads]
    gguf_hub("quantize", model, files[0], mix, *shared)
    size = f"{files[0].stat().st_size}b"
    gguf_hub("quantize", model, files[1], "--target-size", size, *shared, *measuring)
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--mixes", nargs="+", default=MIXES)
    parser.add_argument("--text", type=Path, help="what is measured with; stories by default")
    parser.add_argument("--held", type=Path, help="what is compared on; stories by default")
    parser.add_argument("--stories", type=int, default=400)
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.text and options.held:
            held, text, matrix = options.held, options.text, folder / "imatrix.gguf"
            gguf_hub("imatrix", options.model, "--text", text, "-o", matrix, "--no-ppl")
        else:
            held, text, matrix = write_texts(folder, options.stories)
        measuring = ["--text", text, "--chunks", options.chunks]
        files, start = [], time.perf_counter()
        for mix in options.mixes:
            files += make(options.model, mix, folder, matrix, measuring, options.threads)
        print(f"made in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        rows = compare(files, held, options.threads, model=options.model)
    print("| | size | KL divergence | same top token |")
    print("|---|---|---|---|")
    for row in rows:
        kl, top = row["divergence"]["kl"], row["divergence"]["same_top"]
        cells = [f"{row['size_bytes'] / 1e6:.3f} MB", f"{kl['value']:.5f} ± {kl['error']:.5f}"]
        print(f"| {row['name']} | {' | '.join(cells)} | {100 * top['value']:.2f} % |")


if __name__ == "__main__":
    main()
