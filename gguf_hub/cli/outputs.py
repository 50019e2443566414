"""Where commands that write a GGUF put it."""

from __future__ import annotations

from pathlib import Path


def check_target(source: Path, target: Path, *, force: bool) -> Path:
    """Return the file to write: ``target``, or a file of the source's name in that folder.

    Raises:
        UsageError: It is the source itself.
        GgufHubError: It exists, and ``force`` is not given.
    """
    from gguf_hub.errors import GgufHubError, UsageError

    if target.is_dir():
        target = target / source.name
    if target.exists():
        if source.exists() and target.samefile(source):
            raise UsageError(
                f"`{target}` is the input itself", hint="name another file, or use --in-place"
            )
        if not force:
            raise GgufHubError(f"`{target}` exists already", hint="--force overwrites it")
    return target
