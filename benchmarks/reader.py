"""Reading the header of the full Mixtral: gguf-hub beside gguf's GGUFReader, in one run.

    python benchmarks/reader.py [--repeat 9]

The file is synthetic and sparse: 995 tensors, 32,000 tokens, 26.4 GB that nobody wrote.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.validate import validate_file
from tests.synth import Shape, write_mixtral


def ours(path: Path) -> None:
    """Open: header, every key, the tensor table with all bounds."""
    assert len(GgufFile.open(path).tensors) == 995


def ours_decoded(path: Path) -> None:
    """Open, and decode all 32,000 tokens."""
    file = GgufFile.open(path)
    assert len(file.metadata["tokenizer.ggml.tokens"]) == 32000


def ours_validated(path: Path) -> None:
    """Validate the structure."""
    assert validate_file(path).is_sound


def theirs(path: Path) -> None:
    """GGUFReader of the gguf package."""
    from gguf import GGUFReader

    assert len(GGUFReader(path).tensors) == 995


def seconds(action: Callable[[Path], None], path: Path, repeat: int) -> float:
    """Median time after one warm-up."""
    action(path)
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        action(path)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=9)
    repeat = parser.parse_args().repeat
    try:
        name = f"gguf {version('gguf')} GGUFReader"
    except PackageNotFoundError:
        sys.exit("the other reader is missing: pip install gguf==0.19.0")
    with tempfile.TemporaryDirectory() as folder:
        path = write_mixtral(Path(folder) / "a.gguf", Shape(), recipe="Q4_K_M", sparse=True)
        rows = [
            ("gguf-hub, open", seconds(ours, path, repeat)),
            ("gguf-hub, open and decode the tokens", seconds(ours_decoded, path, repeat)),
            ("gguf-hub, validate (structure)", seconds(ours_validated, path, repeat)),
            (name, seconds(theirs, path, max(repeat // 3, 1))),
        ]
    slowest = rows[-1][1]
    print(f"{'':40}{'median':>10}{'times faster':>15}")
    for label, each in rows:
        print(f"{label:40}{each * 1000:>7.1f} ms{slowest / each:>14.0f}x")


if __name__ == "__main__":
    main()
