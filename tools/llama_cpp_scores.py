"""Computes scores and vectors of a tiny reranker with llama.cpp.

Run by hand where llama-cpp-python is installed, from the root of the repository:

    python -m tools.llama_cpp_scores tests/run/generation/llama_cpp_scores.json
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from gguf_hub.files import write_atomically
from tests.rerankers import ENCODERS, PAIRS, TEMPLATE, write_encoder, write_reranker
from tools.llama_cpp_logits import sha256

N_KEPT = 4
"""Numbers of each vector that are kept."""


def main(target: Path) -> None:
    """Write, of each pair as one text: its tokens, scores, and the first numbers of its vectors."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = write_reranker(Path(folder) / "model.gguf")
        found["sha256"] = sha256(path)
        texts = [TEMPLATE.format(query=query, document=document) for query, document in PAIRS]
        found["tokens"], found["rank"] = compute(path, texts, 4, 2)
        for name, pooling in {"mean": 1, "cls": 2, "last": 3}.items():
            found[name] = compute(path, texts, pooling, N_KEPT)[1]
        for name in ENCODERS:
            path = write_encoder(Path(folder) / f"{name}.gguf", name)
            found[name] = {"sha256": sha256(path), "rank": compute(path, texts, 4, 1)[1]}
    write_atomically(target, (json.dumps(found, indent=1) + "\n").encode())


def compute(
    path: Path, texts: list[str], pooling: int, n_kept: int
) -> tuple[list[list[int]], list[list[float]]]:
    """Return the tokens of texts, with their control tokens, and what llama.cpp pools of them."""
    import llama_cpp

    model = llama_cpp.Llama(str(path), n_ctx=256, embedding=True, pooling_type=pooling,
                            n_threads=1, verbose=False)  # fmt: skip
    all_tokens, vectors = [], []
    for text in texts:
        tokens = model.tokenize(text.encode(), add_bos=False, special=True)
        model.tokenize = lambda *_, tokens=tokens, **__: tokens
        vectors.append(model.embed(text)[:n_kept])
        del model.tokenize
        all_tokens.append(tokens)
    return all_tokens, vectors


if __name__ == "__main__":
    main(Path(sys.argv[1]))
