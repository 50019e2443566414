"""Files that gguf-hub writes, read by the gguf package and by llama.cpp.

    python benchmarks/agreement.py --peer PYTHON [--model FILE] [--text FILE] [--tokens 256]

Needs the ``gguf`` package; PYTHON is the interpreter of an environment with llama-cpp-python. The
model (tiny-mixtral by default) is quantised to every type of `quantize`, with an importance matrix
where one counts, and to the catalog's eight with the catalog's mix; experts are merged.

The gguf package must find the tensors, types and shapes of our reader, and the same weights, bit
for bit. Then both programs read the same tokens. ``exact`` is the same file with its weights as
F32, computed by gguf-hub: nothing is rounded there but the K/V cache, so that it says which of the
two programs is nearer to the file. ``itself`` compares llama.cpp's logits of one batch with its
logits of one token after another, which differ by the order of sums, and by what follows from that:
other rounding of activations to int8, and other experts where the router's choice nearly ties.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.quality import MODEL, gguf_hub, write_stories
from benchmarks.vs_llama_cpp import TYPES
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import FileType
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.perplexity.measure import log_softmax
from gguf_hub.run.quants.imatrix import ImportanceMatrix
from gguf_hub.run.quants.imatrix_file import read_imatrix
from gguf_hub.run.quants.quantize import quantize_file
from gguf_hub.run.quants.recipes import Recipe
from gguf_hub.run.tokenizer import load_tokenizer

Logits = NDArray[np.float32]

ALIKE = 0.999
"""Least cosine of the logits of two programs that compute the same file."""
THEIRS = """
import sys
import numpy as np
from llama_cpp import Llama
path, ids, out, n_batch = sys.argv[1:]
ids = np.load(ids).tolist()
n_ctx, n_batch = len(ids), int(n_batch)
model = Llama(path, n_ctx=n_ctx, n_batch=n_batch, n_threads=1, logits_all=True, verbose=False)
model.eval(ids)
np.save(out, model.scores[: len(ids)])
"""


class Peer:
    """llama.cpp, in a process of its own for each file."""

    def __init__(self, python: str, folder: Path, ids: list[int]) -> None:
        self._python, self._ids, self._out = python, folder / "ids.npy", folder / "out.npy"
        np.save(self._ids, np.array(ids))

    def logits(self, path: Path, n_batch: int = 512) -> Logits:
        """Return logits [T, V]; RuntimeError with its last words when it does not load the file."""
        arguments = [str(path), str(self._ids), str(self._out), str(n_batch)]
        line = [self._python, "-c", THEIRS, *arguments]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        result: Logits = np.load(self._out)
        return result


def our_logits(path: Path, ids: list[int]) -> Logits:
    with (
        GgufFile.open(path) as file,
        Transformer.open(file, ModelSettings(n_ctx=len(ids), n_logits=None)) as model,
    ):
        return model.forward(ids, 0, all_logits=True)


def check_package(path: Path, exact: Path) -> None:
    """Compare what the gguf package finds in a file with what we do.

    Args:
        path: The file.
        exact: The same one with all its matrices as F32.

    Raises:
        AssertionError: A tensor, its type, its shape or a weight differs.
    """
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(path)
    with GgufFile.open(path) as file, GgufFile.open(exact) as widened:
        found = {t.name: (t.tensor_type.name, tuple(map(int, t.shape))) for t in reader.tensors}
        ours = {name: (info.type.name, info.shape) for name, info in file.tensors.items()}
        assert found == ours, f"{path.name}: tensors differ"
        for tensor in reader.tensors:
            theirs = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            mine = dequantized(widened, tensor.name).reshape(theirs.shape)
            assert np.array_equal(theirs, mine), f"{path.name}: {tensor.name} differs"


def dequantized(file: GgufFile, name: str) -> Logits:
    kind = {"F32": np.float32, "F16": np.float16}[file.tensors[name].type.name]
    return file.tensor_bytes(name).view(kind).astype(np.float32)


def cosines(a: Logits, b: Logits) -> tuple[float, NDArray[np.float64]]:
    """Return the cosine of logits [T, V] over all positions, and of each, [T]."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b))), (a * b).sum(1) / norms


def divergence(a: Logits, b: Logits) -> float:
    """Return the mean KL divergence of b from a, in nats."""
    log_p, log_q = log_softmax(a), log_softmax(b)
    return float((np.exp(log_p) * (log_p - log_q)).sum(1).mean())


def row(name: str, path: Path, exact: Path, peer: Peer, ids: list[int]) -> tuple[str, float]:
    """Return a row of the table, and the cosine of both programs' logits."""
    mine, theirs = our_logits(path, ids), peer.logits(path)
    truth, itself = our_logits(exact, ids), peer.logits(path, n_batch=1)
    whole, each = cosines(mine, theirs)
    same = (mine.argmax(1) == theirs.argmax(1)).mean()
    more = [cosines(*pair)[0] for pair in ((mine, truth), (theirs, truth), (theirs, itself))]
    cells = [
        f"{whole:.6f}", f"{np.median(each):.6f}", f"{each.min():.4f}",
        f"{divergence(mine, theirs):.1e}", f"{100 * same:.1f} %", *(f"{x:.6f}" for x in more),
    ]  # fmt: skip
    return f"| {name} | {' | '.join(cells)} |", whole


def mixes() -> Iterator[tuple[str, FileType, Recipe]]:
    """Yield every file type with today's mix, and the catalog's with its own."""
    yield from ((kind.name, kind, "llama.cpp") for kind in FileType)
    yield from ((f"{name}, catalog's", FileType[name], "card") for name in TYPES)


def measure(
    model: Path, matrix: ImportanceMatrix, peer: Peer, ids: list[int], folder: Path
) -> Iterator[str]:
    """Print the table row by row; yield the names of files whose logits are not alike."""
    path, exact = folder / "model.gguf", folder / "exact.gguf"
    for name, kind, recipe in mixes():
        for each in (path, exact):
            each.unlink(missing_ok=True)
        quantize_file(model, path, kind, recipe=recipe, layout="merged", imatrix=matrix)
        quantize_file(path, exact, FileType.F32, requantize=True)
        check_package(path, exact)
        text, whole = row(name, path, exact, peer, ids)
        print(text, flush=True)
        if whole < ALIKE:
            yield f"{name} ({whole:.6f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", required=True, help="interpreter that has llama_cpp")
    parser.add_argument("--model", type=Path, default=MODEL, help="F16 or F32 model")
    parser.add_argument("--text", type=Path, help="what to read; held-out stories by default")
    parser.add_argument("--tokens", type=int, default=256)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        text = options.text or write_stories(folder / "held.txt", "--count", 8, "--held-out")
        with GgufFile.open(options.model) as file:
            tokenizer = load_tokenizer(file.metadata)
        ids = tokenizer.encode(text.read_text(encoding="utf-8"))[: options.tokens]
        others = write_stories(folder / "others.txt", "--count", 50, "--seed", 7)
        gguf_hub("imatrix", options.model, "--text", others, "-o", folder / "m.gguf", "--no-ppl")
        print(f"{options.model.name}, {len(ids)} tokens; cosines of logits over all positions,")
        print("the median and the least of one position; KL divergence in nats; same top token\n")
        print("| | both | median | least | KL | top | ours to exact | theirs to exact | itself |")
        print("|---|---|---|---|---|---|---|---|---|")
        matrix = read_imatrix(folder / "m.gguf")
        unlike = list(measure(options.model, matrix, Peer(options.peer, folder, ids), ids, folder))
    print(f"\nbelow {ALIKE}: {', '.join(unlike) or 'none'}")


if __name__ == "__main__":
    main()
