"""Which file of a model fits a machine, how fast it runs there, and which of those to take.

Arithmetic only: takes facts about files and machines, returns data. What a file is comes from the
catalog or from its header (``survey``), what the machine has from ``hardware``; neither is looked
at here.
"""

from gguf_hub.hub.fit.choice import Fit, Pick, choose, fit_file, largest_n_ctx, pick
from gguf_hub.hub.fit.cluster import ClusterNode, ClusterPlan, PlannedStage, plan_cluster
from gguf_hub.hub.fit.facts import FileFacts, LayerWeights, TensorShare, facts_from_catalog
from gguf_hub.hub.fit.layers import LayerFacts
from gguf_hub.hub.fit.machine import (
    KV_TYPES,
    POLICIES,
    Constraints,
    EngineName,
    Machine,
    Policy,
    isa_of,
)
from gguf_hub.hub.fit.memory import MemoryEstimate, need_of
from gguf_hub.hub.fit.offload import GpuNeed, gpu_need
from gguf_hub.hub.fit.placement import Placement, Verdict, placement_of
from gguf_hub.hub.fit.quality import Loss, estimated_loss, losses_of
from gguf_hub.hub.fit.speed import Speed, gpu_rate, speed_of

__all__ = [
    "KV_TYPES",
    "POLICIES",
    "ClusterNode",
    "ClusterPlan",
    "Constraints",
    "EngineName",
    "FileFacts",
    "Fit",
    "GpuNeed",
    "LayerFacts",
    "LayerWeights",
    "Loss",
    "Machine",
    "MemoryEstimate",
    "Pick",
    "Placement",
    "PlannedStage",
    "Policy",
    "Speed",
    "TensorShare",
    "Verdict",
    "choose",
    "estimated_loss",
    "facts_from_catalog",
    "fit_file",
    "gpu_need",
    "gpu_rate",
    "isa_of",
    "largest_n_ctx",
    "losses_of",
    "need_of",
    "pick",
    "placement_of",
    "plan_cluster",
    "speed_of",
]
