"""What ``gguf-hub pick --json`` prints; docs/pick.schema.json describes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gguf_hub.cli.pick.made_to_measure import as_json

if TYPE_CHECKING:
    from gguf_hub.cli.pick.candidates import CandidateSet, Model
    from gguf_hub.cli.pick.machines import DetectedMachine
    from gguf_hub.cli.pick.made_to_measure import MadeToMeasure
    from gguf_hub.hub.fit import Fit, Pick


def report(
    candidates: CandidateSet, pick: Pick, detected: DetectedMachine, commands: list[str],
    made: MadeToMeasure | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return the table and the terms of its sums as plain data."""
    constraints, machine = pick.constraints, pick.machine
    pairs = zip(candidates.models, pick.fits, strict=True)
    return {
        "repo_id": candidates.repo_id or None,
        "revision": candidates.revision or None,
        "ram_bytes": machine.ram_bytes,
        "vram_bytes": machine.vram_bytes,
        "reserve_bytes": constraints.reserve_of(machine),
        "n_ctx": constraints.n_ctx,
        "kv_type": constraints.kv_type,
        "flash_attn": constraints.flash_attn,
        "engine": constraints.engine,
        "policy": constraints.policy,
        "min_tok_per_s": constraints.min_tok_per_s,
        "machine": _machine(pick, detected),
        "recommended": pick.chosen.facts.quant if pick.chosen else None,
        "reason": pick.reason,
        "commands": commands,
        "files": [_entry(model, fit, pick) for model, fit in pairs],
        "made_to_measure": as_json(made),
        "notes": [*detected.hardware.notes, *candidates.notes],
    }


def _machine(pick: Pick, detected: DetectedMachine) -> dict[str, Any]:
    """Return the machine; unknown values are null."""
    machine, hardware = pick.machine, detected.hardware
    return {
        "cpu_name": hardware.cpu_name,
        "n_cores_physical": hardware.n_cores_physical,
        "n_threads": machine.n_threads,
        "simd": list(hardware.simd),
        "ram_total_bytes": hardware.ram_total_bytes,
        "ram_limit_bytes": hardware.ram_limit_bytes,
        "swap_total_bytes": hardware.swap_total_bytes,
        "swap_free_bytes": hardware.swap_free_bytes,
        "gpus": [gpu.name for gpu in hardware.gpus],
        "is_unified": machine.is_unified,
        "can_offload": machine.can_offload,
        "ram_bytes_per_s": machine.ram_bytes_per_s,
        "gpu_bytes_per_s": machine.gpu_bytes_per_s,
        "gpu_weights_bytes_per_s": machine.gpu_weights_bytes_per_s,
        "disk_bytes_per_s": machine.disk_bytes_per_s,
        "disk_free_bytes": machine.disk_free_bytes,
    }


def _entry(model: Model, fit: Fit, pick: Pick) -> dict[str, Any]:
    file, need, placement = fit.facts, fit.need, fit.placement
    return {
        "quant": file.quant,
        "filename": file.filename,
        "filenames": list(file.filenames),
        "argument": model.argument,
        "bits": file.bits,
        "bits_per_weight": round(file.bits_per_weight, 4),
        "architecture": file.architecture,
        "layout": file.layout,
        "size_bytes": file.size_bytes,
        "need_ram_bytes": need.total_bytes,
        "weights_bytes": need.weights_bytes,
        "dense_bytes": file.dense_bytes,
        "expert_bytes": file.expert_bytes,
        "embedding_bytes": file.embedding_bytes,
        "kv_bytes": need.kv_bytes,
        "scratch_bytes": need.scratch_bytes,
        "overhead_bytes": need.overhead_bytes,
        "active_bytes": file.active_bytes,
        "active_bytes_is_estimated": file.are_parts_estimated,
        "on_disk": fit.is_on_disk,
        "verdict": fit.verdict.value,
        "unknown": file.unknown or None,
        "obstacles": list(file.obstacles),
        "placement": {
            "ram_bytes": placement.ram_bytes,
            "vram_bytes": placement.vram_bytes,
            "lacking_bytes": placement.lacking_bytes,
            "n_gpu_layers": placement.n_gpu_layers,
            "n_cpu_moe": placement.n_cpu_moe,
        },
        "largest_n_ctx": fit.largest_n_ctx,
        "n_ctx_train": file.shape.n_ctx_train,
        "tok_per_s": _speed(fit),
        "perplexity": file.perplexity,
        "perplexity_is_estimated": file.is_perplexity_estimated,
        "loss": fit.loss.share if fit.loss else None,
        "loss_is_estimated": bool(fit.loss and fit.loss.is_estimated),
        "recommended": fit is pick.chosen,
        "recommended_by_card": file.is_recommended,
    }


def _speed(fit: Fit) -> dict[str, Any] | None:
    speed = fit.speed
    if speed is None:
        return None
    return {
        "low": round(speed.low_tok_per_s, 3),
        "about": round(speed.about_tok_per_s, 3),
        "high": round(speed.high_tok_per_s, 3),
        "basis": speed.basis,
    }
