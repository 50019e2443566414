"""Clusters: ``--cluster``, for every command that computes on several machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from gguf_hub.progress import Progress
    from gguf_hub.run.cluster.hosts import Host

cluster_option = click.option(
    "--cluster",
    metavar="ADDRESS",
    help="Compute on the machines of a cluster (extra `cluster`): HOST:PORT; auto: the one that "
    "this machine belongs to; local:N: N processes of this machine, to try it.",
)
"""Add the option that ``open_host`` reads."""


def check_cluster(options: dict[str, Any]) -> None:
    """Refuse what cannot be done on a cluster, before a model is loaded.

    Raises:
        UsageError: No such address, or an option that machines of a cluster do not know.
    """
    if options["cluster"] is None:
        return
    from gguf_hub.api.cluster.address import check_address
    from gguf_hub.errors import UsageError

    check_address(options["cluster"])
    refused = {
        "-ngl": options["gpu_layers"] is not None and options["gpu_layers"] != 0,
        "--no-mmap": not options["mmap"],
        "--prompt-cache": options.get("prompt_cache") is not None,
    }
    for flag, is_given in refused.items():
        if is_given:
            raise UsageError(f"`{flag}` cannot go with `--cluster`", hint=f"leave `{flag}` out")


def open_host(options: Mapping[str, Any], progress: Progress) -> Host | None:
    """Return the cluster of ``--cluster``; None for this machine alone.

    Raises:
        ClusterError: Nobody is there, or it refuses.
    """
    if options.get("cluster") is None:
        return None
    from gguf_hub.api.cluster.opening import open_cluster

    return open_cluster(options["cluster"], progress)
