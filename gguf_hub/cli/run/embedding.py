"""Texts of ``embed``, and what is printed of their vectors."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli import console
from gguf_hub.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gguf_hub.run.opening import LoadedModel

    Floats = NDArray[np.float32]


def read_texts(arguments: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """Return the texts of the command line, a file or stdin; empty ones are left out.

    Raises:
        UsageError: There are none, or they come from two places.
    """
    from gguf_hub.cli.run.prompt import read_text, unescape

    path, prompt = options["text_path"], options["prompt"]
    given = {"TEXT": arguments or None, "-p": prompt, "-f": path}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise click.UsageError(f"{names[0]} and {names[1]} both give texts: drop one of them")
    if not names and sys.stdin and not sys.stdin.isatty():
        path = Path("-")
    if not arguments:
        whole = read_text(path, "text") if path is not None else unescape(prompt or "")
        separator = unescape(options["embd_separator"])
        arguments = whole.split(separator) if separator else [whole]
    if texts := [text for text in arguments if text.strip()]:
        return texts
    raise click.UsageError(
        "expected a text: as an argument after MODEL, with -p or -f, or piped in"
    )


def embed(
    path: Path,
    texts: Sequence[str],
    options: dict[str, Any],
    pooling: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Compute and print.

    Args:
        path: The model.
        texts: What to embed.
        options: Those of the command.
        pooling: Result of ``pooling_settings``.
        progress: Notified about compiling, and about limits of memory or CPUs.
    """
    from gguf_hub.cli.run.opening import (
        model_settings,
        n_ctx_option,
        n_ctx_within,
        report_lost_pages,
    )
    from gguf_hub.cli.run.prompt import unescape
    from gguf_hub.run.embedding import Embedder
    from gguf_hub.run.opening import open_model

    n_ctx = n_ctx_option(options)
    if n_ctx is None:
        n_ctx = n_ctx_within(path, options["ctx_size"])
    settings = model_settings(options, path, progress, n_ctx=n_ctx, n_logits=None)
    with report_lost_pages(f"`{path}`"), open_model(path, settings, progress=progress) as loaded:
        embedder = Embedder(loaded, unescape(options["cls_separator"]), **pooling)
        form = "json" if options["as_json"] and options["form"] == "raw" else options["form"]
        vectors = map(embedder.embed, texts)
        if form == "raw":
            for rows in vectors:
                _say_rows(rows, options["embd_normalize"])
        else:
            _print_json(form, [row for rows in vectors for row in rows], embedder, loaded)


def _say_rows(rows: Floats, norm: int) -> None:
    """Print vectors as lines; those of 16 bits as whole numbers."""
    for row in rows:
        console.say(" ".join(f"{number:.0f}" if norm == 0 else f"{number:.9g}" for number in row))


def _print_json(form: str, vectors: Sequence[Floats], embedder: Any, loaded: LoadedModel) -> None:
    from gguf_hub.gguf.shard_names import model_name
    from gguf_hub.run.generation.answers import embeddings

    rows = [row.tolist() for row in vectors]
    if form == "array":
        console.print_json(rows, indent=None)
        return
    answer = embeddings(rows, model_name(loaded.path), embedder.n_tokens)
    if embedder.labels:
        answer["labels"] = list(embedder.labels)
    if form == "json+":
        answer["cosineSimilarity"] = _similarities(vectors)
    console.print_json(answer, indent=None)


def _similarities(vectors: Iterable[Floats]) -> list[list[float]]:
    """Return the cosine similarity of each vector with each; of two zero vectors it is 1."""
    import numpy as np

    from gguf_hub.run.generation.pooling import EUCLIDEAN, scaled

    units = scaled(np.array(list(vectors), np.float32), EUCLIDEAN).astype(np.float64)
    found = units @ units.T
    is_zero = ~units.any(axis=1)
    found[np.ix_(is_zero, is_zero)] = 1
    similarities: list[list[float]] = found.tolist()
    return similarities
