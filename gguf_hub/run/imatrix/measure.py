"""The importance matrix of a text: a model reads its chunks, and what enters products is summed.

Chunks are those of ``perplexity``; every token of them counts, in all layers, so that logits of all
are computed, and the perplexity of the second halves is a by-product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gguf_hub.gguf.shards import Gguf
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.imatrix.collector import Collector, WatchedMachine
from gguf_hub.run.imatrix.products import Product, find_products
from gguf_hub.run.kernels.vm.machine import Machine
from gguf_hub.run.kernels.vm.ops import Step
from gguf_hub.run.model.program import Program
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.perplexity.measure import BLOCK_ROWS, Chunks, log_softmax
from gguf_hub.run.perplexity.statistics import Floats, Perplexity
from gguf_hub.run.quants.imatrix import ImportanceMatrix, of_entries

_HEADS = ("output.weight", "token_embd.weight")
"""What gives the logits: the embeddings do where they are shared."""


@dataclass(frozen=True)
class Measurement:
    """What a text gave.

    Attributes:
        matrix: The importance matrix, with what it began with.
        perplexity: Of the chunks that were read; None if it was not wanted, or none was.
    """

    matrix: ImportanceMatrix
    perplexity: Perplexity | None


def measure(
    model: Transformer,
    file: Gguf,
    chunks: Chunks,
    *,
    bos_id: int | None,
    before: ImportanceMatrix,
    datasets: Sequence[str],
    n_done: int = 0,
    has_output: bool = False,
    has_perplexity: bool = True,
    save: Callable[[ImportanceMatrix, int], None] = lambda matrix, n_done: None,
    save_every: int = 0,
    progress: Progress = SILENT,
) -> Measurement:
    """Let a model read chunks of a text.

    Args:
        model: Opened with logits of all tokens, computed by the CPU. It is watched from now on.
        file: What it was opened from.
        chunks: Token ids, [n_chunks, n_ctx].
        bos_id: Put in place of each chunk's first token; None to leave that.
        before: Sums to begin with, over tokens.
        datasets: Names of all texts, those of ``before`` among them.
        n_done: Chunks that ``before`` has already.
        has_output: Sum what enters the output matrix, too.
        has_perplexity: Compute the perplexity.
        save: Gets the importance matrix after some chunks, and how many are done.
        save_every: After how many; 0 for never.
        progress: Shows the chunks.

    Raises:
        GgufHubError: An activation was not finite.
    """
    collector = Collector(before.entries)
    model.watch(_watcher(collector, file, has_output=has_output))
    n_chunks, n_ctx = chunks.shape
    nll: list[Floats] = []
    with progress.task("imatrix", n_chunks, unit="chunks", done=n_done) as task:
        for i in range(n_done, n_chunks):
            losses = _read(model, chunks[i], bos_id, has_perplexity=has_perplexity)
            collector.end_chunk()
            nll += losses
            task.advance(1)
            if save_every and (i + 1) % save_every == 0 and i + 1 < n_chunks:
                save(of_entries(collector.entries, datasets, n_ctx), i + 1)
    perplexity = Perplexity.of(np.concatenate(nll)) if nll else None
    return Measurement(of_entries(collector.entries, datasets, n_ctx), perplexity)


def _watcher(
    collector: Collector, file: Gguf, *, has_output: bool
) -> Callable[[Machine, Program], Machine]:
    def watch(machine: Machine, program: Program) -> Machine:
        def find(steps: Sequence[Step]) -> Iterable[Product]:
            for product in find_products(steps, program.bounds.tables, file):
                if product.name.startswith("blk.") or (has_output and product.name in _HEADS):
                    yield product

        return WatchedMachine(machine, find, collector.collect)

    return watch


def _read(
    model: Transformer, chunk: NDArray[np.int32], bos_id: int | None, *, has_perplexity: bool
) -> list[Floats]:
    """Read a chunk; return -ln p of the tokens of its second half, in parts."""
    n_ctx = len(chunk)
    tokens = chunk.tolist() if bos_id is None else [bos_id, *chunk[1:].tolist()]
    losses: list[Floats] = []
    for start in range(0, n_ctx, model.n_batch):
        logits = model.forward(tokens[start : start + model.n_batch], start, all_logits=True)
        first = max(start, n_ctx // 2)
        last = min(start + len(logits), n_ctx - 1)
        if not has_perplexity:
            continue
        for at in range(first, last, BLOCK_ROWS):
            end = min(at + BLOCK_ROWS, last)
            rows = log_softmax(logits[at - start : end - start])
            losses.append(-rows[np.arange(end - at), chunk[at + 1 : end + 1]])
    return losses
