"""``--prompt-cache``: the K/V cache of a prompt in a file, for the next run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguf_hub.cli.run.text_generator import TextGenerator
    from gguf_hub.run.cluster.model import Model
    from gguf_hub.run.generation.engine import Engine
    from gguf_hub.run.opening import LoadedModel


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
    from gguf_hub.run.generation.saved_prompt import model_id_of, write

    path: Path | None = options["prompt_cache"]
    engine, model, file = generator.engine, loaded.model, loaded.file
    if path is None:
        yield
        return
    if not options["prompt_cache_ro"]:
        require_distinct([path], [part.path for part in file.files])
    model_id = model_id_of(model, file)
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
