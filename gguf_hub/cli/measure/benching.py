"""The measurements of ``bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguf_hub.gguf.shards import Gguf
    from gguf_hub.gguf.summary import Summary
    from gguf_hub.progress import Progress
    from gguf_hub.run.bench import Measurement, Plan
    from gguf_hub.run.cluster.model import Model
    from gguf_hub.run.kernels.build.build import KernelBuilder
    from gguf_hub.run.model.settings import GpuSettings, ModelSettings


def bench(path: Path, options: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Measure a model for each number of threads; return what ``--json`` prints.

    Raises:
        GgufHubError: The file is not a model that runs here.
    """
    from gguf_hub.cli.run.opening import NO_MMAP, report_lost_pages
    from gguf_hub.gguf.layout import TensorTable
    from gguf_hub.gguf.shards import open_gguf
    from gguf_hub.gguf.summary import summarize_set
    from gguf_hub.resources.cpus import cpu_name
    from gguf_hub.run.bench import Plan
    from gguf_hub.run.kernels.build.build import KernelBuilder

    plan = Plan(options["n_prompt"], options["n_gen"], options["n_depth"], options["repetitions"])
    builder = KernelBuilder()
    with (
        report_lost_pages(f"`{path}`", NO_MMAP),
        open_gguf(path, is_mapped=options["mmap"], progress=progress) as file,
    ):
        table = TensorTable(dict(file.tensors), ())
        summary = summarize_set([part.header for part in file.files], table)
        runs = [
            _measure(path, file, plan, {**options, "threads": n_threads}, progress, builder)
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
    return {
        "model": summary.name or path.name,
        "path": str(path),
        "file_type": summary.file_type,
        "size_bytes": summary.size_bytes,
        "n_params": summary.n_params,
        "n_params_active": summary.n_params_active,
    }


def _measure(
    path: Path, file: Gguf, plan: Plan, options: dict[str, Any], progress: Progress,
    builder: KernelBuilder,
) -> dict[str, Any]:  # fmt: skip
    from gguf_hub.cli.run.clustering import open_host
    from gguf_hub.cli.run.opening import model_settings
    from gguf_hub.run.bench import measure, read_bytes_per_s
    from gguf_hub.run.opening import load_model, require_logits

    settings = model_settings(options, path, progress, n_ctx=plan.n_ctx)
    host = open_host(options, progress)
    require_logits(file)
    with load_model(file, settings, builder=builder, host=host, progress=progress) as model:
        result = measure(model, plan, progress)
        read_rate = None  # other machines' memory
        if host is None:
            read_rate = read_bytes_per_s(file.data, model.n_threads, builder)
        return {
            "n_threads": model.n_threads,
            "backend": _backend(model, settings),
            "n_gpu_layers": model.n_gpu_layers,
            **_speeds(result),
            **_bandwidth(result, plan, model, read_rate),
        }


def _backend(model: Model, settings: ModelSettings) -> str:
    from gguf_hub.run.cluster.model import ClusterModel

    if isinstance(model, ClusterModel):
        return f"CPUs of {model.n_parallel} nodes"
    return backend_of(settings.gpu) if model.n_gpu_layers else "CPU"


def backend_of(gpu: GpuSettings) -> str:
    """Return the API of the first GPU that computes: ``Vulkan``."""
    from gguf_hub.run.gpu.adapters import find_gpus

    used = gpu.devices or (0,)
    names = [each.info.backend for each in find_gpus().adapters if each.index in used]
    return names[0] if names else "GPU"


def _speeds(result: Measurement) -> dict[str, Any]:
    """Return tokens per second; None for a test of no tokens."""
    speeds: dict[str, Any] = {}
    for name, speed in (("pp", result.prompt), ("tg", result.generation)):
        speeds[f"{name}_tok_per_s"] = speed.tok_per_s if speed else None
        speeds[f"{name}_stddev"] = speed.deviation if speed else None
    return speeds


def _bandwidth(
    result: Measurement, plan: Plan, model: Model, read_rate: float | None
) -> dict[str, Any]:
    """Return bytes per generated token, bytes per second, and the share of memory bandwidth."""
    n_cached = plan.n_depth + (plan.n_gen + 1) // 2  # the average of the test
    size_bytes = model.active_bytes + model.cache_bytes(n_cached)
    is_on_cpu = not model.n_gpu_layers  # a GPU reads its own memory
    speed = size_bytes * result.generation.tok_per_s if result.generation else None
    return {
        "weight_bytes_per_token": model.active_bytes,
        "cache_bytes_per_token": model.cache_bytes(n_cached),
        "bytes_per_token": size_bytes,
        "tg_bytes_per_s": speed,
        "read_bytes_per_s": read_rate,
        "tg_read_share": speed / read_rate if speed and read_rate and is_on_cpu else None,
    }
