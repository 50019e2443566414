"""Where downloaded files lie, as huggingface_hub lays them out, so that other tools find them.

In the cache the bytes are ``blobs/<etag>`` and each commit has links to them; in a folder of the
user's choice they have their own name, and a ``.metadata`` file beside them says what they are.

Source: huggingface_hub 2.4.0, file_download.py and _local_folder.py.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from gguf_hub.errors import DownloadError
from gguf_hub.files import write_atomically
from gguf_hub.hub.client import RemoteFile, RepoListing
from gguf_hub.hub.download.cachedir import all_files_of, repo_folder
from gguf_hub.hub.download.notes import Note, lock_of, note_of, own_folder

CACHEDIR_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Files here can be fetched again.\n"

PART_SUFFIX = ".gguf-hub.part"


class Destination(Protocol):
    """Somewhere that files of a repository are put."""

    root: Path

    def check(self, listing: RepoListing, file: RemoteFile) -> None:
        """Refuse a file for which something would be written outside of the place.

        Raises:
            DownloadError: A folder in its path is a link that leads out.
        """
        ...

    def path_of(self, listing: RepoListing, file: RemoteFile) -> Path:
        """Return the name that the file has, or will have, for users."""
        ...

    def content_of(self, listing: RepoListing, file: RemoteFile) -> Path:
        """Return where its bytes are, or will be."""
        ...

    def part_of(self, listing: RepoListing, file: RemoteFile) -> Path:
        """Return where its bytes gather until they are verified, on the same file system."""
        ...

    def leftovers_of(self, listing: RepoListing, file: RemoteFile) -> list[Path]:
        """Return what huggingface_hub left of this content when it was stopped.

        Only for whoever holds the lock: else it may be at work on them.
        """
        ...

    def is_own(self, path: Path, file: RemoteFile) -> bool:
        """Return whether what has a file's name was put there by us or by huggingface_hub."""
        ...

    def lock_of(self, listing: RepoListing, file: RemoteFile) -> Path:
        """Return the lock file that huggingface_hub takes too while it writes this file."""
        ...

    def accept(self, listing: RepoListing, file: RemoteFile, content: Path) -> Path:
        """Give verified bytes their final name, with what other tools need to know them by.

        Args:
            listing: The repository.
            file: The file.
            content: The bytes: ``part_of``, or ``content_of`` when they were there already.

        Returns:
            ``path_of``.

        Raises:
            OSError: The place cannot be written.
        """
        ...


class HfCache:
    """The cache of huggingface_hub.

    Args:
        root: Its folder, e.g. ``~/.cache/huggingface/hub``.
        symlink: How a link is made (source, name).
    """

    def __init__(self, root: Path, *, symlink: Callable[[str, Path], None] = os.symlink) -> None:
        self.root = root
        self._symlink = symlink

    def check(self, listing: RepoListing, file: RemoteFile) -> None:
        """Look at the folders under the commit, and at those of the revision's name."""
        repo = self._repo(listing)
        _require_inside(repo / "snapshots" / listing.commit, file.path)
        _require_inside(repo / "refs", listing.revision)

    def path_of(self, listing: RepoListing, file: RemoteFile) -> Path:
        """Return the link under the commit."""
        return self._repo(listing) / "snapshots" / listing.commit / file.path

    def content_of(self, listing: RepoListing, file: RemoteFile) -> Path:
        """Return the blob; the file itself where the system knows no links."""
        blob, path = self._repo(listing) / "blobs" / file.etag, self.path_of(listing, file)
        return path if path.is_file() and not path.is_symlink() and not blob.exists() else blob

    def part_of(self, listing: RepoListing, file: RemoteFile) -> Path:
        """Return a name beside the blob."""
        return self._repo(listing) / "blobs" / f"{file.etag}{PART_SUFFIX}"

    def leftovers_of(self, listing: RepoListing, file: RemoteFile) -> list[Path]:
        """Return ``blobs/<etag>.<some id>.incomplete``."""
        return sorted((self._repo(listing) / "blobs").glob(f"{file.etag}*.incomplete"))

    def is_own(self, path: Path, file: RemoteFile) -> bool:
        """Return True: nobody else keeps files in a cache, and a link is replaced, no bytes."""
        return True

    def lock_of(self, listing: RepoListing, file: RemoteFile) -> Path:
        """Return the cache's own lock of the blob."""
        return self.root / ".locks" / self._repo(listing).name / f"{file.etag}.lock"

    def accept(self, listing: RepoListing, file: RemoteFile, content: Path) -> Path:
        """Make the blob, the link, and the name of the revision."""
        path, blob = self.path_of(listing, file), self._repo(listing) / "blobs" / file.etag
        if content not in (path, blob):
            content.replace(blob)
        if content != path and os.path.realpath(path) != os.path.realpath(blob):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._link(blob, path)
            except OSError:
                # a cache that may not be written: the same bytes have the name of another commit
                named = (other.path for other in all_files_of(self._repo(listing))
                         if other.blob == blob and other.filename == file.path)  # fmt: skip
                if (other_path := next(named, None)) is None:
                    raise
                return other_path
        if listing.revision != listing.commit:
            ref = self._repo(listing) / "refs" / listing.revision
            _write_if_new(ref, listing.commit)
        _write_if_new(self.root / "CACHEDIR.TAG", CACHEDIR_TAG, is_once=True)
        return path

    def _link(self, blob: Path, path: Path) -> None:
        """Link ``path`` to ``blob``, relatively; move it where the system allows no links."""
        path.unlink(missing_ok=True)  # a link elsewhere, or a file of other bytes
        try:
            self._symlink(os.path.relpath(blob, path.parent), path)
        except (OSError, NotImplementedError):
            blob.replace(path)

    def _repo(self, listing: RepoListing) -> Path:
        return repo_folder(self.root, listing.repo_id)


class LocalFolder:
    """A folder of the user's choice; the names are those of the repository."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._own = own_folder(root)

    def check(self, listing: RepoListing, file: RemoteFile) -> None:
        """Look at the folders of the file, and at those of its note."""
        _require_inside(self.root, file.path)
        _require_inside(self._own / "download", file.path)

    def path_of(self, listing: RepoListing, file: RemoteFile) -> Path:
        """Return the name in the folder."""
        return self.root / file.path

    def content_of(self, listing: RepoListing, file: RemoteFile) -> Path:
        """Return the same: the bytes have their own name here."""
        return self.path_of(listing, file)

    def part_of(self, listing: RepoListing, file: RemoteFile) -> Path:
        """Return a name in the hidden folder, where nobody takes it for a model."""
        return self._own / "download" / f"{file.etag}{PART_SUFFIX}"

    def leftovers_of(self, listing: RepoListing, file: RemoteFile) -> list[Path]:
        """Return ``<hash of the name>.<etag>.<some id>.incomplete`` beside the metadata."""
        folder = note_of(self.root, file.path).parent
        return sorted(folder.glob(f"*.{file.etag}*.incomplete"))

    def is_own(self, path: Path, file: RemoteFile) -> bool:
        """Return whether a note says that it was downloaded; of a link, no bytes are replaced."""
        return path.is_symlink() or Note.read(self.root, file.path) is not None

    def lock_of(self, listing: RepoListing, file: RemoteFile) -> Path:
        """Return the lock beside the metadata."""
        return lock_of(self.root, file.path)

    def accept(self, listing: RepoListing, file: RemoteFile, content: Path) -> Path:
        """Rename, and write down what the file is."""
        path = self.path_of(listing, file)
        if content != path:
            path.parent.mkdir(parents=True, exist_ok=True)
            content.replace(path)
        note = Note(self.root, file.path, listing.commit, file.etag)
        try:
            note.write()
        except OSError:
            if content != path:
                raise  # a file that was there and whole may lie in a folder that is read-only
        _write_if_new(self._own / ".gitignore", "*", is_once=True)
        _write_if_new(self._own / "CACHEDIR.TAG", CACHEDIR_TAG, is_once=True)
        return path


def _require_inside(base: Path, name: str) -> None:
    """Refuse a name of which a folder leads out of ``base``; ``base`` itself may be a link."""
    inside = os.path.realpath(base)
    folder = (base / name).parent
    real = Path(os.path.realpath(folder))
    if not real.is_relative_to(inside):
        raise DownloadError(
            f"`{folder}` is a link that leads out of `{base}`, to `{real}`: nothing is put there",
            path=folder,
            hint="remove the link, or choose another folder with --local-dir",
        )


def _write_if_new(path: Path, text: str, *, is_once: bool = False) -> None:
    """Write a small file unless it says that already (or, once written, whatever it says).

    A cache that may not be written is no reason to fail: what matters is already there.
    """
    with contextlib.suppress(OSError):
        if not path.exists() or (not is_once and path.read_text(encoding="utf-8") != text):
            write_atomically(path, text)
