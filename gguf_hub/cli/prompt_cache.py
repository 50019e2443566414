"""``--prompt-cache``: what a prompt has cost, kept in a file for the next time."""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguf_hub.engine import Engine
    from gguf_hub.gguf.reader import GgufFile
    from gguf_hub.model.transformer import Transformer

_SAMPLE_BYTES = 4096


@contextlib.contextmanager
def prompt_cache(
    engine: Engine, model: Transformer, file: GgufFile, options: dict[str, Any]
) -> Iterator[None]:
    """Put back the cache of a file before, and keep it there after, as the flags say."""
    path: Path | None = options["prompt_cache"]
    if path is None:
        yield
        return
    model_id = _model_id(model, file)
    if path.exists():
        _load(path, engine, model, model_id)
    yield
    if options["prompt_cache_ro"]:
        return
    n_kept = engine.n_cached
    if not options["prompt_cache_all"]:
        n_kept = min(n_kept, engine.timings.n_cached + engine.timings.n_prompt)
    _save(path, engine.cached[:n_kept], model, model_id)


def _model_id(model: Transformer, file: GgufFile) -> str:
    """Return what tells models apart whose caches are no use to each other.

    Of the weights, some bytes at the beginning, in the middle and at the end tell enough.
    """
    middle = (file.data_offset + len(file.data)) // 2
    digest = hashlib.sha256()
    for start, end in (
        (0, file.data_offset + _SAMPLE_BYTES),
        (middle, middle + _SAMPLE_BYTES),
        (-_SAMPLE_BYTES, None),
    ):
        digest.update(file.data[start:end].tobytes())
    return f"{model.config!r} {model.n_ctx} {model.cache_types} {digest.hexdigest()}"


def _load(path: Path, engine: Engine, model: Transformer, model_id: str) -> None:
    import numpy as np

    from gguf_hub.cli.console import warn

    try:
        with np.load(path, allow_pickle=False) as saved:
            if str(saved["model"]) != model_id:
                warn(
                    f"`{path}` is of another model, context, cache type or position embedding: "
                    "it is not used"
                )
                return
            tokens = [int(i) for i in saved["tokens"]]
            model.load_cache(saved["cache"], len(tokens))
            engine.adopt(tokens)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        warn(f"`{path}` is no prompt cache: it is not used")


def _save(path: Path, tokens: list[int], model: Transformer, model_id: str) -> None:
    import numpy as np

    from gguf_hub.errors import GgufHubError

    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            np.savez(
                file,
                model=np.array(model_id),
                tokens=np.array(tokens, np.int64),
                cache=model.save_cache(len(tokens)),
            )
        part.replace(path)
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise GgufHubError(f"cannot write the prompt cache `{path}`: {reason}") from exc
