"""``--cluster``: which cluster is meant."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gguf_hub.errors import UsageError

if TYPE_CHECKING:
    from gguf_hub.progress import Progress
    from gguf_hub.run.cluster.hosts import Host

_LOCAL = re.compile(r"local:([1-9]\d?)")
_ADDRESS = re.compile(r"(?P<host>[\w.-]+|\[[\da-fA-F:]+\]):(?P<port>\d{1,5})")


def parse_address(text: str) -> tuple[str, int]:
    """Return the host and the port of ``HOST:PORT``.

    Raises:
        UsageError: It is none.
    """
    match = _ADDRESS.fullmatch(text)
    if not match or not 0 < int(match["port"]) < 65536:
        raise UsageError(
            f"cluster `{text}`: expected HOST:PORT, `auto` or `local:N`",
            hint="`gguf-hub cluster up` prints the address",
        )
    return match["host"].strip("[]"), int(match["port"])


def is_local(text: str) -> bool:
    """Return whether processes of this machine are meant."""
    return _LOCAL.fullmatch(text) is not None


def check_address(text: str) -> None:
    """Refuse what names no cluster, before anything is opened.

    Raises:
        UsageError: It is none.
    """
    if text != "auto" and not is_local(text):
        parse_address(text)


def open_cluster(text: str, progress: Progress) -> Host:
    """Connect to a cluster.

    Args:
        text: ``HOST:PORT``; ``auto`` for the one that this machine belongs to; ``local:N`` for N
            processes of this machine, to try it.
        progress: Notified about its machines.

    Raises:
        UsageError: It is none of these.
        ClusterError: Nobody is there, or it refuses.
    """
    check_address(text)
    if match := _LOCAL.fullmatch(text):
        from gguf_hub.run.cluster.hosts import LocalHost

        return LocalHost([f"local-{i + 1}" for i in range(int(match[1]))])
    from gguf_hub.api.cluster.ray_host import RayHost

    return RayHost(text, progress)
