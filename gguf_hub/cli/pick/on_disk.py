"""Which candidates are on this machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def on_disk(repo_id: str, models: Iterable[Sequence[str]]) -> tuple[bool, ...]:
    """Return for each model of a repository whether all its files are on this machine.

    Args:
        repo_id: The repository; empty for none.
        models: The file names of each model.
    """
    names = _local_names(repo_id) if repo_id else frozenset()
    return tuple(names.issuperset(filenames) for filenames in models)


def _local_names(repo_id: str) -> frozenset[str]:
    from gguf_hub.hub.download.cachedir import all_files_of, repo_folder
    from gguf_hub.hub.store import Store
    from gguf_hub.paths import default_cache_dir

    cached = all_files_of(repo_folder(default_cache_dir(), repo_id))
    names = {file.filename for file in cached if file.path.is_file()}
    return frozenset(names | {entry.filename for entry in Store().in_repo(repo_id)})
