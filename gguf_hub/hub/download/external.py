"""Other people's engines: hf_transfer and xet. They fetch whole files; nothing of them resumes.

Their bytes are hashed afterwards like anybody's.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gguf_hub.errors import HubUnreachableError, UsageError
from gguf_hub.hub.client import Hub
from gguf_hub.hub.download.engine import Settings
from gguf_hub.hub.download.journal import remove_part
from gguf_hub.hub.download.link import Link, Source
from gguf_hub.hub.download.transfer import RangeBackend, TransferResult
from gguf_hub.progress import Progress
from gguf_hub.subprocesses import NETWORK, start_python
from gguf_hub.units import MIB

CHUNK_BYTES = 10 * MIB
"""What hf_transfer holds in memory for each of its connections."""


def has_hf_transfer() -> bool:
    """Return whether hf_transfer is installed."""
    return find_spec("hf_transfer") is not None


@dataclass(frozen=True)
class HfTransferBackend:
    """Moves bytes with hf_transfer, in a process of its own.

    Args:
        connections: How many at once.
    """

    connections: int = 8

    @classmethod
    def installed(cls, connections: int) -> HfTransferBackend:
        """Return the mover.

        Raises:
            UsageError: hf_transfer is not installed.
        """
        if not has_hf_transfer():
            raise UsageError(
                "hf_transfer is not installed",
                hint="`pip install 'gguf-hub[hf-transfer]'`; the engine `ranges` needs nothing",
            )
        return cls(connections)

    def __call__(
        self,
        hub: Hub,
        source: Source,
        part: Path,
        *,
        progress: Progress,
        cancel: threading.Event,
    ) -> TransferResult:
        """Fill ``part``; see ``TransferBackend``."""
        metadata = Link(hub, source).current().metadata
        headers = hub.headers_for(metadata)
        if any(name.lower() == "authorization" for name in headers):
            # it follows redirects, and gives another port of the same host what it was given
            progress.note(
                f"`{source.file.path}` needs the token, which hf_transfer does not get: "
                "fetching it with the engine `ranges`"
            )
            settings = Settings(connections=self.connections)
            return RangeBackend(settings)(hub, source, part, progress=progress, cancel=cancel)
        remove_part(part)  # it cannot go on with what another engine left
        options = {
            "url": metadata.url,
            "filename": str(part.absolute()),  # the child works in another folder
            "max_files": self.connections,
            "chunk_size": CHUNK_BYTES,
            # it tries again only when both of these are given
            "parallel_failures": max(self.connections - 1, 1),
            "max_retries": 5,
            "headers": headers,
        }
        label = f"download {source.file.path.rpartition('/')[2]}"
        with progress.task(label, source.file.size_bytes) as task:
            for n_bytes in self._run(options, source):
                if cancel.is_set():
                    raise CancelledError
                task.advance(n_bytes)
        return TransferResult()

    def _run(self, options: dict[str, Any], source: Source) -> Iterator[int]:
        """Yield the size of each chunk that came."""
        with start_python("gguf_hub.hub.download.transfer_child", passed=NETWORK) as child:
            try:
                assert child.stdin and child.stdout
                with contextlib.suppress(BrokenPipeError), child.stdin as stdin:
                    stdin.write(json.dumps(options).encode())
                for line in child.stdout:
                    yield int(line)
            except BaseException:
                child.kill()
                raise
        if child.returncode:
            raise HubUnreachableError(
                f"`{source.file.path}`: hf_transfer failed and cannot resume",
                repo_id=source.repo_id,
                retry_after_s=0.0,
                hint="`--engine ranges` can resume downloads",
            )


@dataclass(frozen=True)
class XetBackend:
    """Moves bytes with hf_xet, which puts a file together from chunks of Hugging Face's store."""

    def __call__(
        self,
        hub: Hub,
        source: Source,
        part: Path,
        *,
        progress: Progress,
        cancel: threading.Event,
    ) -> TransferResult:
        """Fill ``part``; see ``TransferBackend``."""
        remove_part(part)  # it cannot go on with what another engine left
        hub.fetch_xet(source.repo_id, source.file.path, source.commit, part)
        return TransferResult()
