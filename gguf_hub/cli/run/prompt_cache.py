"""``--prompt-cache``: the K/V cache of a prompt in a file, for the next run."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguf_hub.cli.run.text_generator import TextGenerator
    from gguf_hub.gguf.shards import Gguf
    from gguf_hub.run.cluster.model import Model
    from gguf_hub.run.generation.engine import Engine
    from gguf_hub.run.opening import LoadedModel

_SAMPLE_BYTES = 4096


def check_prompt_cache(options: dict[str, Any]) -> None:
    """Refuse a file that must not be replaced, before a model is loaded.

    Raises:
        GgufHubError: The file is something else, or its folder does not exist.
    """
    from gguf_hub.run.generation.saved_prompt import require_replaceable

    if options["prompt_cache"] is not None and not options["prompt_cache_ro"]:
        require_replaceable(options["prompt_cache"])


@contextlib.contextmanager
def prompt_cache(
    generator: TextGenerator, loaded: LoadedModel, options: dict[str, Any]
) -> Iterator[None]:
    """Load the cache from the file before the block and save it after, as the flags say."""
    from gguf_hub.files import require_distinct
    from gguf_hub.run.generation.saved_prompt import write

    path: Path | None = options["prompt_cache"]
    engine, model, file = generator.engine, loaded.model, loaded.file
    if path is None:
        yield
        return
    if not options["prompt_cache_ro"]:
        require_distinct([path], [part.path for part in file.files])
    model_id = _model_id(model, file)
    if os.path.lexists(path):
        _load(path, engine, model, model_id)
    yield
    if options["prompt_cache_ro"]:
        return
    n_tokens = engine.n_cached
    if not options["prompt_cache_all"]:
        n_tokens = min(n_tokens, generator.timings.n_cached + generator.timings.n_prompt)
        if model.has_states:  # the last token is computed again: its state must stand before
            n_tokens = max(0, n_tokens - 1)
    n_tokens = model.reusable(n_tokens)
    write(path, engine.cached[:n_tokens], model, model_id)


def _model_id(model: Model, file: Gguf) -> str:
    """Return an id of models that can share a cache.

    Of the weights, it covers some bytes at the beginning, in the middle and at the end.
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


def _load(path: Path, engine: Engine, model: Model, model_id: str) -> None:
    """Load a saved cache, or warn why it is not used."""
    from gguf_hub.cli.console import warn
    from gguf_hub.oserrors import reason_of
    from gguf_hub.run.generation.saved_prompt import UnusableError, read

    try:
        saved = read(path, model, model_id)
    except UnusableError as error:
        warn(f"`{path}` {error.message}: it is not used")
    except OSError as exc:
        warn(f"`{path}` cannot be read ({reason_of(exc)}): it is not used")
    else:
        model.load_cache(saved.cache, len(saved.tokens))
        engine.adopt(saved.tokens)
