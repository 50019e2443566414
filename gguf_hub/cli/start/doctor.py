"""``gguf-hub doctor``: what gguf-hub detects on this machine, and problems with it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli import console
from gguf_hub.cli.options import catalog_option, json_option, offline_option
from gguf_hub.cli.start.doctor_output import print_report

if TYPE_CHECKING:
    from gguf_hub.hub.hardware import Hardware

PING_TIMEOUT_S = 3.0
PACKAGES = ("gguf-hub", "huggingface_hub", "numba", "llvmlite", "numpy", "psutil", "wgpu")


@click.command("doctor")
@offline_option
@catalog_option
@json_option
def command(catalog_path: Path | None, as_json: bool) -> int:
    """Show what gguf-hub detects on this machine.

    Checks whether the Hub answers (3 s at most). Reports whether a token is set, but never shows
    it.

    Exit code 1 if there is a problem; each is listed at the end.
    """
    report = _examine(catalog_path)
    if as_json:
        console.print_json(report)
    else:
        print_report(report)
    return 1 if report["problems"] else 0


def _examine(catalog_path: Path | None) -> dict[str, Any]:
    """Return the report; every check adds to its ``problems``."""
    from gguf_hub.hub.hardware import detect
    from gguf_hub.paths import default_cache_dir

    problems: list[str] = []
    hardware = detect(default_cache_dir())
    notes = list(hardware.notes)
    return {
        "versions": _versions(),
        "cpu": _cpu(hardware, problems),
        "memory": {
            "ram_total_bytes": hardware.ram_total_bytes,
            "ram_available_bytes": hardware.ram_available_bytes,
            "ram_limit_bytes": hardware.ram_limit_bytes,
            "swap_total_bytes": hardware.swap_total_bytes,
            "swap_free_bytes": hardware.swap_free_bytes,
            **_speeds(hardware),
        },
        "gpus": [asdict(gpu) for gpu in hardware.gpus],
        "gpu_backend": _gpu_backend(hardware),
        "folders": _folders(problems, notes),
        "disk_free_bytes": hardware.disk_free_bytes,
        "hub": _hub(problems, notes),
        "catalog": _catalog(catalog_path, problems),
        "notes": notes,
        "problems": problems,
    }


def _versions() -> dict[str, str | None]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    versions["system"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    return versions


def _cpu(hardware: Hardware, problems: list[str]) -> dict[str, Any]:
    from gguf_hub.errors import GgufHubError
    from gguf_hub.run.kernels.build.cpu import detect_cpu

    try:
        cpu = detect_cpu()
        isa, llvm_name = cpu.isa, cpu.name
    except GgufHubError as error:
        problems.append(error.message)
        isa, llvm_name = None, None
    return {
        "name": hardware.cpu_name,
        "llvm_name": llvm_name,
        "isa": isa,
        "n_cores_physical": hardware.n_cores_physical,
        "n_threads": hardware.n_threads,
        "simd": list(hardware.simd),
        "last_cache_bytes": hardware.last_cache_bytes,
    }


def _speeds(hardware: Hardware) -> dict[str, float | None]:
    """Return the speeds that `gguf-hub pick` has measured; doctor measures nothing."""
    from gguf_hub.hub.hardware import machine_key, recall_speeds
    from gguf_hub.paths import default_cache_dir

    key = machine_key(hardware.cpu_name, hardware.n_threads)
    return asdict(recall_speeds(key, default_cache_dir()))


def _gpu_backend(hardware: Hardware) -> dict[str, Any]:
    """Return what drivers offer to gguf-hub, what of it is used by default, and why not the rest.

    That there is no GPU is no problem.
    """
    from gguf_hub.api.offload import default_rooms
    from gguf_hub.run.gpu.adapters import find_gpus
    from gguf_hub.run.gpu.probe import recall_bandwidth

    report = find_gpus(is_fresh=True)
    rooms = default_rooms(report, hardware)
    free = {room.adapter.index: room.free_bytes for room in rooms}
    return {
        "adapters": [
            asdict(each.info)
            | {
                "index": each.index,
                "is_used": each.index in free,
                "free_bytes": free.get(each.index),
                "weights_bytes_per_s": recall_bandwidth(each.info),
                "problem": each.problem or None,
            }
            for each in report.adapters
        ],
        "problem": report.problem or None,
        "hint": report.hint or None,
    }


def _folders(problems: list[str], notes: list[str]) -> dict[str, dict[str, Any]]:
    """Return purpose -> path of each folder, and whether it exists and is writable."""
    from gguf_hub.ownership import weakness_of_way
    from gguf_hub.paths import data_dir, default_cache_dir, kernel_cache_dir

    folders = {}
    for name, path in (
        ("models", default_cache_dir()),
        ("records", data_dir()),
        ("kernels", kernel_cache_dir()),
    ):
        is_writable = _is_writable(path)
        folders[name] = {"path": str(path), "exists": path.is_dir(), "is_writable": is_writable}
        if name == "kernels":
            problem = weakness_of_way(path) if is_writable else f"`{path}` is not writable"
            if problem:
                notes.append(f"compiled kernels are not kept beyond this session: {problem}")
        elif not is_writable:
            problems.append(f"the folder for {name} is not writable: {path}")
    return folders


def _is_writable(path: Path) -> bool:
    """Return whether files can be made there, by trying it.

    Permissions alone do not say: root has all of them, on read-only disks and in `/proc` too.
    """
    import tempfile

    nearest = next(
        folder for folder in (path, *path.parents) if folder.exists() or folder == folder.parent
    )
    try:
        with tempfile.TemporaryDirectory(prefix=".gguf-hub-", dir=nearest):
            return True
    except OSError:
        return False


def _hub(problems: list[str], notes: list[str]) -> dict[str, Any]:
    """Check whether a hub answers; invalid settings of it are problems too."""
    from gguf_hub.errors import GgufHubError, HubUnreachableError
    from gguf_hub.hub.client import UNSENT_TOKEN, HfHub, is_offline

    report: dict[str, Any] = {"endpoint": None, "is_offline": is_offline()}
    report |= {"problem": None, "has_token": False}
    try:
        hub = HfHub()
        report["endpoint"] = hub.endpoint
        report["has_token"] = hub.has_token()
        trouble = None if is_offline() else hub.ping(timeout_s=PING_TIMEOUT_S)
    except GgufHubError as error:
        problems.append(f"hub: {error.message}")
        return report | {"problem": error.message}
    if trouble:
        report["problem"] = trouble.message
        # where nothing answers, the hint is to ask us
        hint = None if isinstance(trouble, HubUnreachableError) else trouble.hint
        problems.append(f"hub: {trouble.message}" + (f"; {hint}" if hint else ""))
    if hub.has_unsent_token():
        notes.append(UNSENT_TOKEN)
    if hub.is_exposed():
        sent = hub.sent_secret()
        risk = f"the {sent} travels in clear text" if sent else "files can be changed"
        problems.append(f"hub: {hub.endpoint} is plain http: {risk}")
    return report


def _catalog(catalog_path: Path | None, problems: list[str]) -> dict[str, Any]:
    from gguf_hub.errors import CatalogError
    from gguf_hub.hub.catalog import find_catalog, load_catalog

    report = {"path": str(find_catalog(catalog_path)), "repo_id": None, "n_files": 0}
    try:
        catalog = load_catalog(catalog_path)
    except CatalogError as error:
        problems.append(error.message)
        return report
    return {**report, "repo_id": catalog.repo_id, "n_files": len(catalog.files)}
