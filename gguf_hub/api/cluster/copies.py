"""The files of a machine of a cluster: its own copy of the driver's, or the tensors that it needs.

Whether a copy is the driver's file is compared afterwards, whatever it is called.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf_hub.progress import Progress

if TYPE_CHECKING:
    from gguf_hub.hub.client import Hub
    from gguf_hub.hub.download.slices import Origin


class NodeFiles:
    """Finds and fetches what a stage computes with; ``StageServer`` asks.

    Args:
        folder: Where slices are kept; the data folder when None.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._cancel = threading.Event()

    def find(self, path: Path) -> Path | None:
        """Return this machine's copy of the driver's file, or None.

        The same path, as in a shared folder; else a file of the same name where model files of this
        machine lie.
        """
        if path.is_file():
            return path
        from gguf_hub.hub.download.inventory import Condition, inventory
        from gguf_hub.hub.resolve import known_roots
        from gguf_hub.hub.store import Store

        store = Store()
        there = [
            file
            for file in inventory(store, known_roots(store))
            if file.path.name == path.name and file.path.is_file()
        ]
        there.sort(key=lambda file: file.condition is not Condition.VERIFIED)
        return there[0].path if there else None

    def fetch(self, offer: Mapping[str, Any], progress: Progress) -> tuple[Sequence[Path], int]:
        """Have the tensors here that an offer of ``FileServer`` names.

        Returns:
            The files of the slice, and how many bytes came.

        Raises:
            GgufHubError: As ``SliceStore.fetch``.
        """
        from gguf_hub.gguf.manifest import Manifest
        from gguf_hub.hub.download.slices import Origin, SliceStore
        from gguf_hub.paths import data_dir

        origins = [Origin.from_json(row) for row in offer["origins"]]
        done = SliceStore(self._folder or data_dir()).fetch(
            offer["content"],
            Manifest.from_json(offer["manifest"]),
            [(origin, partial(_connect, origin)) for origin in _in_order(origins)],
            progress=progress,
            cancel=self._cancel,
        )
        return done.paths, done.received_bytes


def _in_order(origins: Sequence[Origin]) -> list[Origin]:
    """Return origins, the best first: a mirror that this machine is set to, then the driver."""
    own = [each for each in origins if each.endpoint is None]
    others = [each for each in origins if each.endpoint is not None]
    return [*own, *others] if os.environ.get("HF_ENDPOINT") else [*others, *own]


def _connect(origin: Origin) -> Hub:
    from gguf_hub.hub.client import HfHub

    if origin.endpoint is None:
        return HfHub()
    return HfHub(origin.endpoint, origin.token, retry_waits_s=())
