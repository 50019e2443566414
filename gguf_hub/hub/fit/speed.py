"""How many tokens a second a file makes: bytes that a token reads over the speed of reading.

A roofline: a type is read at the slower of what memory gives and what the cores of an engine
compute. Rates are measured ones, ``benchmarks/fit.py calibrate`` prints them anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gguf_hub.hub.fit.facts import FileFacts
from gguf_hub.hub.fit.machine import (
    ASSUMED_DISK_BYTES_PER_S,
    ASSUMED_RAM_BYTES_PER_S,
    KV_TYPES,
    Constraints,
    Machine,
)
from gguf_hub.hub.fit.memory import need_of
from gguf_hub.hub.fit.placement import Placement, Verdict
from gguf_hub.hub.fit.rates import (
    CROSSING_S,
    GPU_SHARE,
    RUNNER_GPU_LAYER_S,
    RUNNER_GPU_SHARE,
    TOKEN_S,
    WORD_S,
    Rates,
    rates_of,
)

Basis = Literal["measured", "assumed"]

SPREAD: Mapping[Basis, tuple[float, float]] = {"measured": (0.8, 1.2), "assumed": (0.4, 2.0)}
"""The range about a figure: what the benchmark of docs/fit.md found, or a guess at a machine that
nobody measured."""

BYTES_WORTH_A_THREAD = 8 * 10**6  # as the runner: a thread needs so many bytes of a token


@dataclass(frozen=True)
class Speed:
    """Tokens a second at a context that is half full.

    Attributes:
        basis: Whether the bandwidths in it were measured on this machine (or given by the user),
            or assumed.
    """

    low_tok_per_s: float
    about_tok_per_s: float
    high_tok_per_s: float
    basis: Basis


def speed_of(
    file: FileFacts, constraints: Constraints, machine: Machine, placement: Placement
) -> Speed | None:
    """Estimate the speed of generating; None where it cannot run, or nobody knows the GPU.

    Args:
        file: The file.
        constraints: Context, K/V type and engine.
        machine: Threads and bandwidths.
        placement: Where the parts lie.
    """
    if placement.verdict is Verdict.TOO_BIG or placement.verdict.is_hopeless:
        return None
    dense, experts = placement.gpu_share
    if (dense or experts) and gpu_rate(constraints, machine) is None:
        return None
    host_s = _host_seconds(file, constraints, machine, placement)
    gpu_s = _gpu_seconds(file, constraints, machine, placement)
    miss_bytes = file.expert_bytes * file.expert_share * placement.miss_share
    disk = machine.disk_bytes_per_s or ASSUMED_DISK_BYTES_PER_S
    basis = _basis(constraints, machine, placement)
    low, high = SPREAD[basis]
    about = 1 / (host_s + gpu_s + miss_bytes / disk)
    worst = about
    if placement.miss_share:
        # layers come round in turn: a cache that drops the oldest finds nothing again
        worst = 1 / (host_s + file.expert_bytes * file.expert_share / disk)
    return Speed(min(worst, about) * low, about, about * high, basis)


def gpu_rate(constraints: Constraints, machine: Machine) -> float | None:
    """Return the bytes a second that the engine reads of a GPU's memory; None if unknown."""
    is_ours = constraints.engine == "gguf-hub"
    if is_ours and machine.gpu_weights_bytes_per_s is not None:
        return machine.gpu_weights_bytes_per_s
    if machine.gpu_bytes_per_s is None:
        return None
    return (RUNNER_GPU_SHARE if is_ours else GPU_SHARE) * machine.gpu_bytes_per_s


def _basis(constraints: Constraints, machine: Machine, placement: Placement) -> Basis:
    is_on_our_gpu = constraints.engine == "gguf-hub" and placement.n_gpu_layers > 0
    if is_on_our_gpu and machine.gpu_weights_bytes_per_s is None:
        return "assumed"
    is_known = machine.ram_bytes_per_s is not None or placement.gpu_share == (1.0, 1.0)
    if placement.miss_share and machine.disk_bytes_per_s is None:
        is_known = False
    return "measured" if is_known else "assumed"


def _host_seconds(
    file: FileFacts, constraints: Constraints, machine: Machine, placement: Placement
) -> float:
    rates = rates_of(constraints.engine, machine.isa)
    threads = _threads(file, constraints, machine)
    bandwidth = machine.ram_bytes_per_s or ASSUMED_RAM_BYTES_PER_S
    roof = rates.share * bandwidth
    dense, experts = placement.gpu_share
    seconds = 0.0
    for share in file.tensors:
        if share.role == "token_embd":
            continue
        is_expert = share.role in ("ffn", "ffn_down")
        here = share.size_bytes * (1 - (experts if is_expert else dense))
        read_bytes = here * (file.expert_share if is_expert else 1.0)
        seconds += read_bytes / min(roof, threads * rates.core_of(share.type))
    kv_bytes = need_of(file, constraints, n_threads=machine.n_threads).kv_bytes / 2 * (1 - dense)
    # attention computes for each query that shares a key: fewer of them are done sooner; and for
    # each number, however many bytes it has
    sharing = file.shape.n_head / file.shape.n_head_kv / 4
    width = KV_TYPES[constraints.kv_type].bits_per_weight / KV_TYPES["f16"].bits_per_weight
    seconds += kv_bytes / min(roof, threads * rates.core_kv_bytes_per_s * width / sharing)
    seconds += _layer_seconds(file, rates, threads) * (1 - dense)
    return seconds + TOKEN_S + WORD_S * file.shape.n_vocab


def _layer_seconds(file: FileFacts, rates: Rates, threads: int) -> float:
    """Time of all layers besides reading."""
    shape = file.shape
    gates = max(1, shape.n_expert_used) * shape.n_ff
    layer_s = rates.layer_s + shape.n_expert_used * rates.expert_s + gates * rates.gate_s / threads
    return shape.n_layer * layer_s


def _threads(file: FileFacts, constraints: Constraints, machine: Machine) -> int:
    """Return the threads that compute: of ours only those that have work worth a barrier."""
    if constraints.engine == "llama.cpp":
        return machine.n_threads
    return max(1, min(machine.n_threads, file.active_bytes // BYTES_WORTH_A_THREAD))


def _gpu_seconds(
    file: FileFacts, constraints: Constraints, machine: Machine, placement: Placement
) -> float:
    dense, experts = placement.gpu_share
    if not (dense or experts):
        return 0.0
    rate = gpu_rate(constraints, machine)
    assert rate is not None
    read_bytes = file.dense_bytes * dense + file.expert_bytes * file.expert_share * experts
    read_bytes += need_of(file, constraints, n_threads=machine.n_threads).kv_bytes / 2 * dense
    if constraints.engine == "llama.cpp":
        return read_bytes / rate
    layers_s = dense * file.shape.n_layer * RUNNER_GPU_LAYER_S
    return read_bytes / rate + layers_s + CROSSING_S
