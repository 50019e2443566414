"""Text output of ``gguf-hub doctor``."""

from __future__ import annotations

from typing import Any

from gguf_hub.cli import console

Lines = list[tuple[str, str]]


def print_report(report: dict[str, Any]) -> None:
    """Print the report on stdout, notes and problems on stderr."""
    for title, lines in (
        (
            "versions",
            [(name, text or "not installed") for name, text in report["versions"].items()],
        ),
        ("processor", _processor(report["cpu"])),
        ("memory", _memory(report)),
        ("GPU", _gpu_backend(report["gpu_backend"])),
        ("folders", _folders(report)),
        ("hub", _hub(report["hub"])),
        ("catalog", _catalog(report["catalog"])),
    ):
        console.say(console.style(title, bold=True))
        for label, value in lines:
            console.say(f"  {label:<18}{value}")
    for text in report["notes"]:
        console.note(f"note: {text}")
    for problem in report["problems"]:
        console.error(problem)
    if not report["problems"]:
        console.note(console.style("no problems found", "green"))


def _processor(cpu: dict[str, Any]) -> Lines:
    isa = cpu["isa"]
    return [
        ("name", cpu["name"]),
        ("kernels", f"{isa}, compiled for {cpu['llvm_name']}" if isa else "none, see below"),
        ("cores", f"{cpu['n_cores_physical']} physical for this process"),
        ("threads", f"{cpu['n_threads']} by default"),
        ("SIMD", " ".join(cpu["simd"]) or "unknown"),
    ]


def _memory(report: dict[str, Any]) -> Lines:
    memory = report["memory"]
    lines = [
        ("RAM", _size(memory["ram_total_bytes"])),
        ("available", _size(memory["ram_available_bytes"])),
        ("container limit", _size(memory["ram_limit_bytes"], unknown="none")),
        ("swap", f"{_size(memory['swap_total_bytes'])} (not counted)"),
        ("read speed", _rate(memory["ram_bytes_per_s"])),
    ]
    for gpu in report["gpus"]:
        lines.append(("GPU", f"{gpu['name']}: {_vram(gpu)}"))
    return lines if report["gpus"] else [*lines, ("GPU", "none detected")]


def _gpu_backend(backend: dict[str, Any]) -> Lines:
    """List what drivers offer by the numbers that ``-dev`` takes."""
    lines = [(f"device {each['index']}", _adapter(each)) for each in backend["adapters"]]
    if backend["problem"]:
        return [*lines, ("used", f"none: {backend['problem']}"), ("hint", str(backend["hint"]))]
    used = [str(each["index"]) for each in backend["adapters"] if each["is_used"]]
    return [*lines, ("used by default", f"device {', '.join(used)}")]


def _adapter(adapter: dict[str, Any]) -> str:
    text = f"{adapter['name']}: {adapter['backend']}, {adapter['driver'] or 'driver unknown'}"
    if adapter["problem"]:
        return f"{text}; not used: {adapter['problem']}"
    if not adapter["is_used"]:
        return text
    rate = _rate(adapter["weights_bytes_per_s"])
    return f"{text}; {_size(adapter['free_bytes'])} free; weights are read at: {rate}"


def _vram(gpu: dict[str, Any]) -> str:
    if gpu["is_unified"]:
        total = gpu["vram_total_bytes"]
        return f"shares the RAM, up to {_size(total)}" if total else "shares the RAM"
    rate = f", {_rate(gpu['bytes_per_s'])}" if gpu["bytes_per_s"] else ""
    return f"{_size(gpu['vram_free_bytes'])} free of {_size(gpu['vram_total_bytes'])}{rate}"


def _rate(bytes_per_s: float | None) -> str:
    return f"{bytes_per_s / 1e9:.1f} GB/s" if bytes_per_s else "not measured (`gguf-hub pick` does)"


def _folders(report: dict[str, Any]) -> Lines:
    lines = [
        (name, f"{folder['path']}{_remark(folder)}") for name, folder in report["folders"].items()
    ]
    disk = _rate(report["memory"]["disk_bytes_per_s"])
    return [*lines, ("free for models", f"{_size(report['disk_free_bytes'])}, reads {disk}")]


def _remark(folder: dict[str, Any]) -> str:
    if not folder["is_writable"]:
        return " (not writable)"
    return "" if folder["exists"] else " (does not exist yet)"


def _hub(hub: dict[str, Any]) -> Lines:
    state = "offline (HF_HUB_OFFLINE)" if hub["is_offline"] else "answers"
    return [
        ("endpoint", hub["endpoint"] or "none, see below"),
        ("state", "no answer, see below" if hub["problem"] else state),
        ("token", "present" if hub["has_token"] else "none (not needed for public files)"),
    ]


def _catalog(catalog: dict[str, Any]) -> Lines:
    content = f"{catalog['n_files']} files of {catalog['repo_id']}"
    return [
        ("file", catalog["path"]),
        ("content", content if catalog["repo_id"] else "invalid, see below"),
    ]


def _size(size_bytes: int | None, *, unknown: str = "unknown") -> str:
    from gguf_hub.units import format_gb

    return unknown if size_bytes is None else format_gb(size_bytes)
