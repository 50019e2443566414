"""Output of ``bench``."""

from __future__ import annotations

from typing import Any

from gguf_hub.cli import console

_HEADERS = ("model", "size", "params", "backend", "threads", "test", "tok/s", "GB/token", "GB/s",
            "of memory")  # fmt: skip
_ALIGN = ("left", "right", "right", "left", "right", "left", "right", "right", "right", "right")


def report(data: dict[str, Any], form: str) -> None:
    """Print the results of ``benching.bench`` as ``json``, ``markdown`` or ``text``."""
    if form == "json":
        console.print_json(data)
        return
    rows = [row for run in data["runs"] for row in _rows(data, run)]
    console.print_table(rows, _HEADERS, align=_ALIGN, is_markdown=form == "markdown")
    rates = ", ".join(f"{_gb(run['read_bytes_per_s'])} GB/s on {_threads(run)}"
                      for run in data["runs"] if run["read_bytes_per_s"])  # fmt: skip
    memory = f"; memory reads {rates}" if rates else ""
    console.note(f"{data['cpu']}, {data['isa']} kernels{memory}")


def _rows(data: dict[str, Any], run: dict[str, Any]) -> list[list[str]]:
    rows = []
    for test, n in (("pp", data["n_prompt"]), ("tg", data["n_gen"])):
        if not n:
            continue
        speed = f"{run[f'{test}_tok_per_s']:.2f} ± {run[f'{test}_stddev']:.2f}"
        depth = f" @ d{data['n_depth']}" if data["n_depth"] else ""
        reading = ["", "", ""]
        if test == "tg":
            share = "-"
            if run["tg_read_share"] is not None:
                share = f"{run['tg_read_share']:.0%}".replace("%", " %")
            reading = [
                f"{run['bytes_per_token'] / 1e9:.3f}",
                _gb(run["tg_bytes_per_s"]),
                share,
            ]
        rows.append(
            [*_model(data), _backend(run), str(run["n_threads"]), f"{test}{n}{depth}", speed,
             *reading]
        )  # fmt: skip
    return rows


def _model(data: dict[str, Any]) -> list[str]:
    from gguf_hub.units import format_count, format_size

    name = f"{data['model']} {data['file_type']}".strip().replace("|", "/")
    return [name, format_size(data["size_bytes"]), format_count(data["n_params"])]


def _backend(run: dict[str, Any]) -> str:
    """Return what computes, with the layers of a GPU: ``Vulkan, 26 layers``."""
    n = run["n_gpu_layers"]
    return f"{run['backend']}, {n} layers" if n else str(run["backend"])


def _gb(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e9:.1f}"


def _threads(run: dict[str, Any]) -> str:
    return f"{run['n_threads']} thread{'s' * (run['n_threads'] != 1)}"
