"""The driver's file for machines that lack it: they fetch the tensors that they compute, no others.

A mirror of this one file, on the driver's address in the cluster, with a token that is new for each
model and reaches the machines with what else they are told. It is started when the first machine
lacks the file.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Collection, Mapping
from typing import Any

from gguf_hub.gguf.identity import header_id, tensors_id
from gguf_hub.gguf.shards import Gguf
from gguf_hub.hub.download.manifests import ManifestStore
from gguf_hub.hub.download.slices import Origin
from gguf_hub.hub.mirror import LOCAL_REPO_ID, Mirror, RepositoryIndex
from gguf_hub.hub.store import Store, StoredFile
from gguf_hub.progress import SILENT, Progress

_BRANCH = "main"


class FileServer:
    """Serves the model of a driver to the machines of its cluster.

    Args:
        host: The driver's address, as the machines reach it.
        store: The record of verified files: it knows which files a hub has, too.
        progress: Where to report the hashing.

    Attributes:
        sent_bytes: Bytes of the model that were sent to each address.
    """

    def __init__(self, host: str, store: Store | None = None, progress: Progress = SILENT) -> None:
        self._host, self._store, self._progress = host, store or Store(), progress
        self._manifests = ManifestStore(self._store.folder)
        self.sent_bytes: Mapping[str, int] = {}
        self._mirror: Mirror | None = None
        self._content_id = ""
        self._lock = threading.Lock()

    def offer(self, file: Gguf, names: Collection[str]) -> dict[str, Any]:
        """Return what a machine needs to fetch some tensors, for ``NodeFiles.fetch``.

        Args:
            file: The driver's model; always the same.
            names: The tensors.

        Raises:
            GgufHubError: This machine cannot listen on its address in the cluster.
        """
        with self._lock:  # stages open together
            manifest = self._manifests.manifest(file, names, progress=self._progress)
            if self._mirror is None:
                self._content_id = content_id(file)
                self._mirror = self._start(file)
                self.sent_bytes = self._mirror.sent_bytes
            origins = [_of_mirror(self._mirror, file), *_of_hub(file, self._store)]
        return {
            "content": self._content_id,
            "manifest": manifest.to_json(),
            "origins": [origin.to_json() for origin in origins],
        }

    def close(self) -> None:
        """Serve no more."""
        if self._mirror is not None:
            self._mirror.close()
            self._mirror = None

    def _start(self, file: Gguf) -> Mirror:
        entries = [
            StoredFile.of(part.path, _etag(self._content_id, part.path.name)) for part in file.files
        ]
        index = RepositoryIndex(None, entries)
        return Mirror(index, host=self._host, token=secrets.token_urlsafe(24)).start()


def content_id(file: Gguf) -> str:
    """Return 64 hex digits that tell a model from others: its header, and samples of all tensors.

    Which bytes are right, says the manifest; this names the folder that they are kept in.
    """
    text = header_id(file) + tensors_id(file, file.tensors)
    return hashlib.sha256(text.encode()).hexdigest()


def _etag(content_id: str, name: str) -> str:
    return hashlib.sha256(f"{content_id} {name}".encode()).hexdigest()


def _of_mirror(mirror: Mirror, file: Gguf) -> Origin:
    assert mirror.token
    entries = [mirror.index.file(LOCAL_REPO_ID, _BRANCH, part.path.name) for part in file.files]
    return Origin(
        "the driver", mirror.endpoint, mirror.token, LOCAL_REPO_ID, _BRANCH,
        tuple(part.path.name for part in file.files),
        tuple(each.entry.sha256 if each else "" for each in entries),
    )  # fmt: skip


def _of_hub(file: Gguf, store: Store) -> list[Origin]:
    """Return where a hub has these very files, as far as this machine's record knows."""
    known = [store.find_verified(part.path) for part in file.files]
    entries = [each for each in known if each and each.repo_id and each.commit]
    if len(entries) < len(known) or len({(e.repo_id, e.commit) for e in entries}) != 1:
        return []
    first = entries[0]
    assert first.repo_id and first.commit
    return [Origin(
        f"the hub's `{first.repo_id}`", None, None, first.repo_id, first.commit,
        tuple(e.filename for e in entries), tuple(e.sha256 for e in entries),
    )]  # fmt: skip
