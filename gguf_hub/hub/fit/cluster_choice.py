"""Which of several files to run on a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gguf_hub.hub.fit.choice import Fit, choose
from gguf_hub.hub.fit.cluster import ClusterNode, ClusterPlan, plan_cluster
from gguf_hub.hub.fit.facts import FileFacts
from gguf_hub.hub.fit.machine import Constraints
from gguf_hub.hub.fit.memory import need_of
from gguf_hub.hub.fit.placement import Placement, Verdict
from gguf_hub.hub.fit.quality import losses_of
from gguf_hub.hub.fit.speed import SPREAD, Basis, Speed


@dataclass(frozen=True)
class ClusterFit:
    """A file on a cluster.

    Attributes:
        fit: As for one machine.
        plan: Which machine holds which layers; no stages where they do not hold it.
    """

    fit: Fit
    plan: ClusterPlan


@dataclass(frozen=True)
class ClusterPick:
    """All files on a cluster, and the one to take (None when none fits)."""

    fits: tuple[ClusterFit, ...]
    chosen: ClusterFit | None
    constraints: Constraints


def pick_for_cluster(
    files: Sequence[FileFacts],
    nodes: Sequence[ClusterNode],
    constraints: Constraints,
    on_disk: Sequence[bool],
) -> ClusterPick:
    """Plan every file and choose one, by the same policies as for one machine.

    Args:
        files: The files, at least one.
        nodes: The machines.
        constraints: What is asked; the reserve is each machine's.
        on_disk: For each file whether it needs no download.

    Raises:
        UsageError: There is no such policy.
    """
    losses = losses_of(files)
    fits = []
    for file, loss, is_on_disk in zip(files, losses, on_disk, strict=True):
        each = _fit(file, nodes, constraints)
        fit = replace(each.fit, loss=loss, is_on_disk=is_on_disk)
        fits.append(ClusterFit(fit, each.plan))
    chosen = choose([each.fit for each in fits], constraints.policy)
    return ClusterPick(
        tuple(fits), next((e for e in fits if e.fit is chosen), None), constraints
    )  # fmt: skip


def _fit(file: FileFacts, nodes: Sequence[ClusterNode], constraints: Constraints) -> ClusterFit:
    need = need_of(file, constraints)
    if file.unknown or file.obstacles:
        verdict = Verdict.UNKNOWN if file.unknown else Verdict.NOT_HERE
        return ClusterFit(Fit(file, constraints, need, Placement(verdict), None, 0), ClusterPlan())
    plan = plan_cluster(file, constraints, nodes)
    if not plan.stages:
        placement = Placement(Verdict.TOO_BIG, lacking_bytes=plan.lacking_bytes)
        return ClusterFit(Fit(file, constraints, need, placement, None, 0), plan)
    used = {stage.node for stage in plan.stages}
    is_measured = all(n.machine.ram_bytes_per_s is not None for n in nodes if n.name in used)
    basis: Basis = "measured" if is_measured else "assumed"
    low, high = SPREAD[basis]
    about = 1 / plan.token_s
    ram_bytes = sum(stage.ram_bytes for stage in plan.stages)
    speed = Speed(about * low, about, about * high, basis)
    return ClusterFit(
        Fit(file, constraints, need, Placement(Verdict.RAM, ram_bytes), speed, 0), plan
    )
