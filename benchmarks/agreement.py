"""Logits of files that gguf-hub writes, computed by gguf-hub and by llama.cpp.

    python benchmarks/agreement.py --peer PYTHON [--model FILE] [--text FILE] [--tokens 256]

PYTHON is the interpreter of an environment with llama-cpp-python. The model (tiny-mixtral by
default) is quantised to the catalog's eight types, with today's mix and with the catalog's, experts
merged; both programs read the same tokens. Two controls say how much of a difference quantised
activations make by themselves: ``f16`` is the model as it is, and ``llama.cpp's own`` compares
llama.cpp's logits of one batch with its logits of one token after another.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.upgrade import plan_upgrade
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.quants.quantize import quantize_file
from gguf_hub.run.quants.recipes import Recipe, parse_file_type
from gguf_hub.run.tokenizer import load_tokenizer

TYPES = ("Q2_K", "Q3_K_M", "Q4_0", "Q4_K_M", "Q5_0", "Q5_K_M", "Q6_K", "Q8_0")
EMBEDDED = Path(__file__).resolve().parents[1] / "gguf_hub/data/tiny-mixtral.f16.gguf"
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

    def logits(self, path: Path, n_batch: int = 512) -> NDArray[np.float32]:
        """Return logits [T, V]; RuntimeError with its last words when it does not load the file."""
        arguments = [str(path), str(self._ids), str(self._out), str(n_batch)]
        line = [self._python, "-c", THEIRS, *arguments]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        result: NDArray[np.float32] = np.load(self._out)
        return result


def our_logits(path: Path, ids: list[int]) -> NDArray[np.float32]:
    with (
        GgufFile.open(path) as file,
        Transformer.open(file, ModelSettings(n_ctx=len(ids), n_logits=None)) as model,
    ):
        return model.forward(ids, 0, all_logits=True)


def row(name: str, a: NDArray[np.float32], b: NDArray[np.float32]) -> str:
    """Compare two arrays of logits [T, V] position by position."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(1) / norms
    log_p, log_q = (x - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True))
                    - x.max(1, keepdims=True) for x in (a, b))  # fmt: skip
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(1).mean()
    whole = float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))
    same = (a.argmax(1) == b.argmax(1)).mean()
    return (
        f"{name:26} {whole:9.6f} {np.median(cosine):9.6f} {cosine.min():9.6f}"
        f" {divergence:10.2e} {same:7.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", required=True, help="interpreter that has llama_cpp")
    parser.add_argument("--model", type=Path, default=EMBEDDED, help="F16 or F32 model")
    parser.add_argument("--text", type=Path, help="what to read; held-out stories by default")
    parser.add_argument("--tokens", type=int, default=256)
    options = parser.parse_args()
    with GgufFile.open(options.model) as file:
        tokenizer = load_tokenizer(file.metadata)
    ids = tokenizer.encode(_text(options.text))[: options.tokens]
    print(f"{options.model.name}, {len(ids)} tokens; cosine over all, median and least position")
    print(f"{'':26} {'all':>9} {'median':>9} {'least':>9} {'KL':>10} {'top 1':>7}")
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        peer = Peer(options.peer, folder, ids)
        path = folder / "model.gguf"
        plan_upgrade(options.model).write(path)
        print(row("f16", our_logits(path, ids), peer.logits(path)), flush=True)
        recipes: tuple[Recipe, ...] = ("card", "llama.cpp")
        for recipe in recipes:
            for name in TYPES:
                path.unlink(missing_ok=True)
                kind = parse_file_type(name)
                quantize_file(options.model, path, kind, recipe=recipe, layout="merged")
                theirs = peer.logits(path)
                print(row(f"{name} {recipe}", our_logits(path, ids), theirs))
                print(row("  llama.cpp's own", theirs, peer.logits(path, n_batch=1)), flush=True)


def _text(path: Path | None) -> str:
    if path is not None:
        return path.read_text(encoding="utf-8")
    from tools import stories

    return "\n\n".join(stories.documents(stories.HELD_OUT, 8))


if __name__ == "__main__":
    main()
