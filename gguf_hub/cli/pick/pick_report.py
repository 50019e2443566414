"""What ``gguf-hub pick --json`` prints; docs/pick.schema.json describes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguf_hub.cli.pick.candidates import CandidateSet, Model
    from gguf_hub.cli.pick.machines import DetectedMachine
    from gguf_hub.hub.fit import Fit, Pick


def report(
    subject: CandidateSet, found: Pick, seen: DetectedMachine, commands: list[str]
) -> dict[str, Any]:
    """Return all that the table says, and the terms of the sums, as plain data."""
    wish, machine = found.constraints, found.machine
    pairs = zip(subject.models, found.fits, strict=True)
    return {
        "repo_id": subject.repo_id or None,
        "revision": subject.revision or None,
        "ram_bytes": machine.ram_bytes,
        "vram_bytes": machine.vram_bytes,
        "reserve_bytes": wish.reserve_of(machine),
        "n_ctx": wish.n_ctx,
        "kv_type": wish.kv_type,
        "engine": wish.engine,
        "policy": wish.policy,
        "min_tok_per_s": wish.min_tok_per_s,
        "machine": _machine(found, seen),
        "recommended": found.chosen.facts.quant if found.chosen else None,
        "reason": found.reason,
        "commands": commands,
        "files": [_entry(model, fit, found) for model, fit in pairs],
        "notes": [*seen.hardware.notes, *subject.notes],
    }


def _machine(found: Pick, seen: DetectedMachine) -> dict[str, Any]:
    """What is judged by; null is what nobody knows."""
    machine, hardware = found.machine, seen.hardware
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
        "ram_bytes_per_s": machine.ram_bytes_per_s,
        "gpu_bytes_per_s": machine.gpu_bytes_per_s,
        "disk_bytes_per_s": machine.disk_bytes_per_s,
        "disk_free_bytes": machine.disk_free_bytes,
    }


def _entry(model: Model, fit: Fit, found: Pick) -> dict[str, Any]:
    facts, need, placement = fit.facts, fit.need, fit.placement
    return {
        "quant": facts.quant,
        "filename": facts.filename,
        "filenames": list(facts.filenames),
        "argument": model.argument,
        "bits": facts.bits,
        "bits_per_weight": round(facts.bits_per_weight, 4),
        "architecture": facts.architecture,
        "layout": facts.layout,
        "size_bytes": facts.size_bytes,
        "need_ram_bytes": need.total_bytes,
        "weights_bytes": need.weights_bytes,
        "dense_bytes": facts.dense_bytes,
        "expert_bytes": facts.expert_bytes,
        "embedding_bytes": facts.embedding_bytes,
        "kv_bytes": need.kv_bytes,
        "scratch_bytes": need.scratch_bytes,
        "overhead_bytes": need.overhead_bytes,
        "active_bytes": facts.active_bytes,
        "active_bytes_is_estimated": facts.are_parts_estimated,
        "on_disk": fit.is_on_disk,
        "verdict": fit.verdict.value,
        "unknown": facts.unknown or None,
        "obstacles": list(facts.obstacles),
        "placement": {
            "ram_bytes": placement.ram_bytes,
            "vram_bytes": placement.vram_bytes,
            "lacking_bytes": placement.lacking_bytes,
            "n_gpu_layers": placement.n_gpu_layers,
            "n_cpu_moe": placement.n_cpu_moe,
        },
        "largest_n_ctx": fit.largest_n_ctx,
        "n_ctx_train": facts.shape.n_ctx_train,
        "tok_per_s": _speed(fit),
        "perplexity": facts.perplexity,
        "perplexity_is_estimated": facts.is_perplexity_estimated,
        "loss": fit.loss.share if fit.loss else None,
        "loss_is_estimated": bool(fit.loss and fit.loss.is_estimated),
        "recommended": fit is found.chosen,
        "recommended_by_card": facts.is_recommended,
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
