"""From the facts of machines to the stages of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf_hub.errors import ClusterError
from gguf_hub.units import format_gb

if TYPE_CHECKING:
    from gguf_hub.hub.fit import ClusterNode, ClusterPlan, Constraints, FileFacts
    from gguf_hub.run.cluster.hosts import Assignment
    from gguf_hub.run.model.settings import ModelSettings


_STEP = 1.1


@dataclass(frozen=True)
class NodeFacts:
    """What a machine says of itself.

    Attributes:
        program: Its version, see ``run.cluster.identity``.
        ram_bytes: Memory that is available, as its container allows.
        n_threads: Threads that compute.
        isa: Which of our kernels run there.
        ram_bytes_per_s: Measured, or None.
    """

    program: str
    ram_bytes: int
    n_threads: int
    isa: str
    ram_bytes_per_s: float | None


def describe_machine() -> dict[str, Any]:
    """Return the facts of this machine, for ``NodeFacts``; its memory's speed is measured once."""
    from gguf_hub.hub.fit import isa_of
    from gguf_hub.hub.hardware import detect, machine_key, measure, recall_speeds
    from gguf_hub.paths import default_cache_dir
    from gguf_hub.run.cluster.identity import program_id

    seen, folder = detect(), default_cache_dir()
    key = machine_key(seen.cpu_name, seen.n_threads)
    speeds = recall_speeds(key, folder)
    if speeds.ram_bytes_per_s is None:
        speeds = measure(
            key,
            folder,
            n_threads=seen.n_threads,
            l3_bytes=seen.last_cache_bytes,
            available_bytes=seen.ram_available_bytes,
            with_disk=False,
        )
    return {
        "program": program_id(),
        "ram_bytes": seen.ram_available_bytes or 0,
        "n_threads": seen.n_threads,
        "isa": isa_of(seen.simd),
        "ram_bytes_per_s": speeds.ram_bytes_per_s,
    }


def nodes_of(facts: Mapping[str, NodeFacts]) -> list[ClusterNode]:
    """Return machines as ``fit`` plans with them, by name."""
    from gguf_hub.hub.fit import ClusterNode, Machine

    return [
        ClusterNode(
            name,
            Machine(
                ram_bytes=each.ram_bytes,
                n_threads=each.n_threads,
                isa=each.isa,
                ram_bytes_per_s=_in_steps(each.ram_bytes_per_s),
            ),
        )
        for name, each in facts.items()
    ]


def _in_steps(rate: float | None) -> float | None:
    """Return a measured rate in steps of a tenth: noise does not tell machines that are alike."""
    return _STEP ** round(math.log(rate, _STEP)) if rate else rate


def plan_model(path: Path, settings: ModelSettings, nodes: Sequence[ClusterNode]) -> ClusterPlan:
    """Return which machine holds which layers of a file.

    Raises:
        ClusterError: They do not hold it.
    """
    from gguf_hub.hub.fit import Constraints, plan_cluster
    from gguf_hub.hub.survey.headers import facts_of_file

    file = facts_of_file(path)
    n_ctx = settings.n_ctx or file.shape.n_ctx_train
    constraints = Constraints(n_ctx=n_ctx, kv_type=_kv_type(settings))
    plan = plan_cluster(
        file, constraints, nodes, n_slots=settings.n_slots, n_batch=settings.n_batch
    )
    if not plan.stages:
        raise lacking(file, constraints, nodes, plan)
    return plan


def _kv_type(settings: ModelSettings) -> str:
    """Return the type of the cache; of keys and values that differ, the larger one."""
    types = {settings.key_type.lower(), settings.value_type.lower()}
    return next(name for name in ("f32", "f16", "q8_0") if name in types)


def assignments_of(plan: ClusterPlan) -> list[Assignment]:
    """Return a plan as what stages are started by."""
    from gguf_hub.run.cluster.hosts import Assignment
    from gguf_hub.run.model.program import Stage

    return [
        Assignment(each.node, Stage(each.first, each.end, each.has_embedding, each.has_head))
        for each in plan.stages
    ]


def lacking(
    file: FileFacts, constraints: Constraints, nodes: Sequence[ClusterNode], plan: ClusterPlan
) -> ClusterError:
    """Return the error that says what machines lack."""
    rooms = ", ".join(f"`{n.name}` {format_gb(constraints.limit_of(n.machine))}" for n in nodes)
    return ClusterError(
        f"`{file.quant}` does not fit the cluster: about {format_gb(plan.lacking_bytes)} of RAM "
        f"are missing; the {len(nodes)} nodes may take {rooms or 'nothing'}",
        hint="add a machine (`gguf-hub cluster up --join ADDRESS` there), take a smaller quant or "
        "a smaller context (`-c`)",
    )
