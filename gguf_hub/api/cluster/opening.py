"""From ``--cluster`` to the machines that are meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguf_hub.api.cluster.address import check_address, is_local

if TYPE_CHECKING:
    from gguf_hub.progress import Progress
    from gguf_hub.run.cluster.hosts import Host


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
    if is_local(text):
        from gguf_hub.run.cluster.hosts import LocalHost

        return LocalHost([f"local-{i + 1}" for i in range(int(text.partition(":")[2]))])
    from gguf_hub.api.cluster.ray_host import RayHost

    return RayHost(text, progress)
