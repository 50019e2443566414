"""What is on this machine, for the commands that list and remove it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gguf_hub.hub.download.inventory import LocalFile, Roots
    from gguf_hub.hub.store import Store


def known_roots(store: Store, *folders: Path) -> Roots:
    """Return where files of this machine lie: the Hugging Face cache, and what was fetched to.

    Args:
        store: The record.
        folders: More of them.
    """
    from gguf_hub.hub.client import default_cache_dir
    from gguf_hub.hub.download.inventory import Roots

    more = [folder.expanduser().absolute() for folder in folders]
    return Roots.known(store, default_cache_dir().absolute(), *more)


def find_held(argument: str, catalog_path: Path | None, store: Store) -> list[LocalFile]:
    """Return the files of this machine that an argument names: a path, a quant, a repository.

    Raises:
        ModelNotFoundError: It names nothing, or nothing that is here.
        UsageError: It names a branch or tag.
    """
    import os

    from gguf_hub.cli.models import target_for
    from gguf_hub.errors import ModelNotFoundError
    from gguf_hub.hub.catalog import load_catalog
    from gguf_hub.hub.download.inventory import inventory, look_at, of_target

    path = Path(argument).expanduser()
    if held := look_at(path, store):
        return [held]
    if os.path.lexists(path):
        raise ModelNotFoundError(
            f"`{path}` was neither downloaded nor verified by gguf-hub or huggingface_hub",
            hint=f"`rm {path}` removes any file",
        )
    target = target_for(argument, load_catalog(catalog_path), is_remote=True)
    assert not isinstance(target, Path)
    _require_commit(target.revision, argument)
    found = of_target(inventory(store, known_roots(store)), target)
    if not found:
        raise ModelNotFoundError(
            f"`{argument}` is not on this machine", hint="`gguf-hub ls` shows what is"
        )
    return found


def _require_commit(revision: str | None, argument: str) -> None:
    import re

    from gguf_hub.errors import UsageError

    if revision and not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise UsageError(
            f"`{argument}`: which files `{revision}` has is for the hub to say",
            hint="name a commit, a path, or leave the revision away",
        )
