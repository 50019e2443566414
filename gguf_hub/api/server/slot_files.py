"""Files with the caches of slots, in one folder: ``--slot-save-path``.

The layout is that of ``--prompt-cache`` (``saved_prompt``). Clients name files, never paths.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from gguf_hub.errors import GgufHubError, UsageError
from gguf_hub.oserrors import reason_of
from gguf_hub.run.generation.engine import Engine
from gguf_hub.run.generation.saved_prompt import (
    SavedPrompt,
    UnusableError,
    read_saved,
    require_replaceable,
    write_saved,
)

if TYPE_CHECKING:
    from gguf_hub.run.cluster.model import Model

MAX_NAME_BYTES = 200
"""Of a file name; the file has a longer one until it is whole."""
_NAME = re.compile(r"""(?![. ])[^\x00-\x1f\x7f-\x9f/\\:*?"<>|\u2215\u2216\uff0e\ufeff]+(?<![. ])""")


class SlotFiles:
    """Saves and restores caches.

    Args:
        folder: Where the files lie; it exists.
        model: The model; its caches are read and written in its worker's thread only.
        model_id: Identifies models that can share a cache (``saved_prompt.model_id_of``).
    """

    def __init__(self, folder: Path, model: Model, model_id: str) -> None:
        self._folder, self._model, self._model_id = folder, model, model_id

    def path_of(self, name: str) -> Path:
        """Return the file of a name.

        Raises:
            UsageError: The name could lead elsewhere, or not every system can have it.
        """
        if not _NAME.fullmatch(name) or len(name.encode()) > MAX_NAME_BYTES:
            raise UsageError(
                f"filename: expected the name of a file without a folder, found `{name:.60}`",
                hint=f'it has at most {MAX_NAME_BYTES} bytes, none of / \\ : * ? " < > | and no '
                "dot or blank at its ends",
            )
        return self._folder / name

    def take(self, engine: Engine) -> SavedPrompt:
        """Return a copy of a slot's cache; in the worker's thread."""
        n_tokens = self._model.reusable(engine.n_cached, engine.slot)
        cache = self._model.save_cache(n_tokens, engine.slot)
        return SavedPrompt(engine.cached[:n_tokens], cache)

    def put(self, saved: SavedPrompt, engine: Engine) -> None:
        """Replace a slot's cache; in the worker's thread."""
        engine.reset()  # unknown if this fails
        self._model.load_cache(saved.cache, len(saved.tokens), engine.slot)
        engine.adopt(saved.tokens)

    def write(self, path: Path, saved: SavedPrompt) -> int:
        """Write a file, or replace a saved cache; return its bytes.

        Raises:
            UsageError: Something else has the name.
            GgufHubError: It cannot be written.
        """
        if path.is_symlink():
            raise UsageError(f"filename: `{path.name}` is a link: it is not replaced",
                             hint="name another file")  # fmt: skip
        if path.exists():
            _require_saved_slot(path)
        return write_saved(path, saved, self._model_id)

    def read(self, path: Path) -> tuple[SavedPrompt, int]:
        """Return the content of a file, and its bytes.

        Raises:
            UsageError: There is none, or it belongs to another model or other settings.
            GgufHubError: It cannot be read.
        """
        try:
            size_bytes = path.lstat().st_size
            return read_saved(path, self._model, self._model_id), size_bytes
        except FileNotFoundError as exc:
            raise UsageError(f"filename: no saved slot `{path.name}`") from exc
        except UnusableError as exc:
            raise UsageError(f"filename: `{path.name}` {exc.message}") from exc
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.EINVAL):
                raise UsageError(f"filename: `{path.name}` is not a regular file") from exc
            raise GgufHubError(f"cannot read `{path.name}`: {reason_of(exc)}") from exc


def _require_saved_slot(path: Path) -> None:
    try:
        require_replaceable(path)
    except GgufHubError as exc:
        raise UsageError(f"filename: `{path.name}` is there and is no saved slot: it is not "
                         "replaced", hint="name another file") from exc  # fmt: skip


def check_folder(folder: Path) -> Path:
    """Return the absolute folder for the files of slots.

    Raises:
        UsageError: There is none, or nothing can be written to it.
    """
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"--slot-save-path {folder}: expected a folder that can be written to",
                         hint=f"make it: `mkdir -p {folder}`")  # fmt: skip
    return folder.resolve()
