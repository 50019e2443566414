"""Opening and timing what ``bench`` measures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguf_hub.gguf.summary import Summary
    from gguf_hub.progress import Progress
    from gguf_hub.run.bench import Measurement, Plan
    from gguf_hub.run.kernels.build.build import KernelBuilder
    from gguf_hub.run.model.transformer import Transformer


def bench(path: Path, options: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Measure a model for each number of threads; return what ``--json`` prints.

    Raises:
        GgufHubError: The file is none that runs here.
    """
    from gguf_hub.gguf.layout import TensorTable
    from gguf_hub.gguf.shards import open_gguf
    from gguf_hub.gguf.summary import summarize_set
    from gguf_hub.resources.cpus import cpu_name
    from gguf_hub.run.bench import Plan
    from gguf_hub.run.kernels.build.build import KernelBuilder

    plan = Plan(options["n_prompt"], options["n_gen"], options["n_depth"], options["repetitions"])
    with open_gguf(path) as file:
        table = TensorTable(dict(file.tensors), ())
        summary = summarize_set([each.header for each in file.files], table)
    builder = KernelBuilder()
    runs = [
        _run(path, plan, {**options, "threads": n_threads}, progress, builder)
        for n_threads in dict.fromkeys(options["threads"])
    ]
    return {
        **_model(path, summary),
        "cpu": cpu_name(Path("/")),
        "isa": builder.cpu.isa,
        "n_batch": options["batch_size"],
        "cache_type_k": options["cache_type_k"],
        "cache_type_v": options["cache_type_v"],
        "n_prompt": plan.n_prompt,
        "n_gen": plan.n_gen,
        "n_depth": plan.n_depth,
        "repetitions": plan.repetitions,
        **runs[0],
        "runs": runs,
    }


def _model(path: Path, summary: Summary) -> dict[str, Any]:
    """Return what the file is."""
    return {
        "model": summary.name or path.name,
        "path": str(path),
        "file_type": summary.file_type,
        "size_bytes": summary.size_bytes,
        "n_params": summary.n_params,
        "n_params_active": summary.n_params_active,
    }


def _run(
    path: Path, plan: Plan, options: dict[str, Any], progress: Progress, builder: KernelBuilder
) -> dict[str, Any]:
    """Measure with one number of threads."""
    from gguf_hub.cli.run.opening import NO_MMAP, lost_pages_told, model_settings
    from gguf_hub.run.bench import measure, read_bytes_per_s
    from gguf_hub.run.opening import open_model

    settings = model_settings(options, n_ctx=plan.n_ctx)
    with (
        lost_pages_told(f"`{path}`", NO_MMAP),
        open_model(path, settings, builder=builder, progress=progress) as loaded,
    ):
        model = loaded.model
        run = measure(model, plan, progress)
        read = read_bytes_per_s(loaded.file.data, model.n_threads, builder)
        return {"n_threads": model.n_threads, **_speeds(run), **_reading(run, plan, model, read)}


def _speeds(run: Measurement) -> dict[str, Any]:
    """Return tokens per second, None for a test that was not asked for."""
    found: dict[str, Any] = {}
    for name, speed in (("pp", run.prompt), ("tg", run.generation)):
        found[f"{name}_tok_per_s"] = speed.tok_per_s if speed else None
        found[f"{name}_stddev"] = speed.deviation if speed else None
    return found


def _reading(run: Measurement, plan: Plan, model: Transformer, read: float) -> dict[str, Any]:
    """Return what one generated token reads, how fast that is, and how fast memory is."""
    n_cached = plan.n_depth + (plan.n_gen + 1) // 2  # on the average of the test
    size_bytes = model.active_bytes + model.cache_bytes(n_cached)
    rate = size_bytes * run.generation.tok_per_s if run.generation else None
    return {
        "weight_bytes_per_token": model.active_bytes,
        "cache_bytes_per_token": model.cache_bytes(n_cached),
        "bytes_per_token": size_bytes,
        "tg_bytes_per_s": rate,
        "read_bytes_per_s": read,
        "tg_read_share": rate / read if rate else None,
    }
