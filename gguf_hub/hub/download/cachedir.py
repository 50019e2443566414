"""What lies in a Hugging Face cache: repositories, commits, names, and the blobs behind them.

Only looks, never writes; a folder that cannot be read holds nothing.

Source: huggingface_hub 2.4.0, file_download.py and utils/_shared_blobs.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gguf_hub.paths import absolute

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_HOPS = 8


@dataclass(frozen=True)
class CachedFile:
    """A name under a commit, ``models--org--name/snapshots/<commit>/<filename>``.

    Attributes:
        repo: Folder of the repository.
        commit: The commit.
        filename: Path inside the repository.
        path: The name: a link, or the file itself where the system knows no links.
        blob: What the link leads to; ``path`` where it is no link.
    """

    repo: Path
    commit: str
    filename: str
    path: Path
    blob: Path

    @property
    def repo_id(self) -> str:
        """The repository."""
        return repo_id_of(self.repo) or ""

    @property
    def etag(self) -> str | None:
        """What the content is known by: SHA-256, or git's id of a small file; None if neither."""
        name = self.blob.name
        is_named_so = SHA256.fullmatch(name) or COMMIT.fullmatch(name)
        return name if self.blob != self.path and is_named_so else None

    @property
    def sha256(self) -> str | None:
        """SHA-256 that the content should have, as the name of the blob says."""
        return self.etag if self.etag and SHA256.fullmatch(self.etag) else None


def repo_folder(cache_dir: Path, repo_id: str) -> Path:
    """Return the folder of a model repository (it may not exist)."""
    return cache_dir / "--".join(("models", *repo_id.split("/")))


def repo_id_of(folder: Path) -> str | None:
    """Return the model repository that a folder of a cache belongs to, or None."""
    kind, *names = folder.name.split("--")
    return "/".join(names) if kind == "models" and names else None


def repos_of(cache_dir: Path) -> list[Path]:
    """Return the folders of model repositories."""
    return [path for path in entries_of(cache_dir) if repo_id_of(path) and path.is_dir()]


def commits_of(repo: Path) -> list[str]:
    """Return the commits that have files, the one that was fetched last first."""
    paths = entries_of(repo / "snapshots")
    folders = [path for path in paths if COMMIT.fullmatch(path.name) and path.is_dir()]
    return [path.name for path in sorted(folders, key=lambda p: p.stat().st_mtime, reverse=True)]


def commit_of(repo: Path, revision: str) -> str | None:
    """Return the commit that a branch, tag or commit names, as far as the cache knows."""
    if COMMIT.fullmatch(revision):
        return revision
    try:
        text = (repo / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return text if COMMIT.fullmatch(text) else None


def files_of(repo: Path, commit: str) -> Iterator[CachedFile]:
    """Yield the names under a commit; those that lead to nothing too."""
    snapshot = repo / "snapshots" / commit
    for folder, _, names in os.walk(snapshot):
        for name in sorted(names):
            path = Path(folder, name)
            filename = path.relative_to(snapshot).as_posix()
            yield CachedFile(repo, commit, filename, path, blob_of(path))


def all_files_of(repo: Path) -> list[CachedFile]:
    """Return the names under all commits."""
    return [file for commit in commits_of(repo) for file in files_of(repo, commit)]


def blob_of(path: Path) -> Path:
    """Return what a name in a cache stands for: ``models--.../blobs/<id>``, links followed so far.

    A blob may be a link itself, into the store that repositories share: its name there is no
    SHA-256, so the last hop is not taken. A path outside of any cache comes back as it really is.
    """
    for _ in range(_MAX_HOPS):
        path = Path(os.path.realpath(path.parent), path.name)
        is_blob = path.parent.name == "blobs" and repo_id_of(path.parent.parent) is not None
        if is_blob or not path.is_symlink():
            break
        path = path.parent / path.readlink()
    return path


def find_file(path: Path) -> CachedFile | None:
    """Return what a path is in a cache, or None when it is no name under a commit."""
    path = absolute(path)
    for folder in path.parents:
        repo = folder.parent.parent
        if folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name) and repo_id_of(repo):
            filename = path.relative_to(folder).as_posix()
            return CachedFile(repo, folder.name, filename, path, blob_of(path))
    return None


def is_own_blob(blob: Path, repo: Path) -> bool:
    """Return whether a file lies among the blobs of a repository, not where a link leads out to.

    The whole folder of a repository may be a link to one laid out as in a cache.
    """
    return blob.parent == Path(os.path.realpath(repo), "blobs")


def is_inside(folder: Path, base: Path) -> bool:
    """Return whether a folder lies in ``base``, wherever links lead; ``base`` itself is no link."""
    real = Path(os.path.realpath(base.parent), base.name)
    return Path(os.path.realpath(folder)).is_relative_to(real)


def shared_blob_of(blob: Path) -> Path | None:
    """Return the file in the store of all repositories that a blob leads to, or None."""
    if not blob.is_symlink():
        return None
    target = Path(os.path.normpath(blob.parent / blob.readlink()))
    store = blob.parent.parent.parent / "blobs"
    is_shared = target.parent.parent == store and SHA256.fullmatch(target.name)
    return target if is_shared and is_inside(target.parent, store) else None


def entries_of(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted; nothing where it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except (OSError, ValueError):
        return []
