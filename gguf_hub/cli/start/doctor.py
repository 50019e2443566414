"""``gguf-hub doctor``: what gguf-hub sees of this machine, and what is wrong with it."""

from __future__ import annotations

import os
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
PACKAGES = ("gguf-hub", "huggingface_hub", "numba", "llvmlite", "numpy", "psutil")


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
    """Look at everything; what is wrong goes into ``problems``."""
    from gguf_hub.hub.client import default_cache_dir
    from gguf_hub.hub.hardware import detect

    problems: list[str] = []
    seen = detect(default_cache_dir())
    notes = list(seen.notes)
    return {
        "versions": _versions(),
        "cpu": _cpu(seen, problems),
        "memory": {
            "ram_total_bytes": seen.ram_total_bytes,
            "ram_available_bytes": seen.ram_available_bytes,
            "ram_limit_bytes": seen.ram_limit_bytes,
            "swap_total_bytes": seen.swap_total_bytes,
            "swap_free_bytes": seen.swap_free_bytes,
            **_speeds(seen),
        },
        "gpus": [asdict(gpu) for gpu in seen.gpus],
        "folders": _folders(problems, notes),
        "disk_free_bytes": seen.disk_free_bytes,
        "hub": _hub(problems),
        "catalog": _catalog(catalog_path, problems),
        "notes": notes,
        "problems": problems,
    }


def _versions() -> dict[str, str | None]:
    """Return package -> version, None for one that is not installed."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    found["system"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    return found


def _cpu(seen: Hardware, problems: list[str]) -> dict[str, Any]:
    from gguf_hub.errors import GgufHubError
    from gguf_hub.run.kernels.build.cpu import detect_cpu

    try:
        cpu = detect_cpu()
        isa, llvm_name = cpu.isa, cpu.name
    except GgufHubError as error:
        problems.append(error.message)
        isa, llvm_name = None, None
    return {
        "name": seen.cpu_name,
        "llvm_name": llvm_name,
        "isa": isa,
        "n_cores_physical": seen.n_cores_physical,
        "n_threads": seen.n_threads,
        "simd": list(seen.simd),
        "last_cache_bytes": seen.last_cache_bytes,
    }


def _speeds(seen: Hardware) -> dict[str, float | None]:
    """Return what `gguf-hub pick` measured before; doctor measures nothing."""
    from gguf_hub.hub.client import default_cache_dir
    from gguf_hub.hub.hardware import machine_key, recall_speeds

    key = machine_key(seen.cpu_name, seen.n_threads)
    return asdict(recall_speeds(key, default_cache_dir()))


def _folders(problems: list[str], notes: list[str]) -> dict[str, dict[str, Any]]:
    """Return what each folder is for -> where it is and whether we may write there."""
    from gguf_hub.hub.client import default_cache_dir
    from gguf_hub.ownership import weakness_of_way
    from gguf_hub.paths import data_dir, kernel_cache_dir

    found = {}
    for name, path in (
        ("models", default_cache_dir()),
        ("records", data_dir()),
        ("kernels", kernel_cache_dir()),
    ):
        is_writable = _is_writable(path)
        found[name] = {"path": str(path), "exists": path.is_dir(), "is_writable": is_writable}
        if name == "kernels":
            problem = weakness_of_way(path) if is_writable else f"`{path}` is not writable"
            if problem:
                notes.append(f"compiled kernels are kept for this session at most: {problem}")
        elif not is_writable:
            problems.append(f"the folder for {name} is not writable: {path}")
    return found


def _is_writable(path: Path) -> bool:
    """Tell whether the folder, or else the nearest one that exists above it, can be written."""
    nearest = next(each for each in (path, *path.parents) if each.exists() or each == each.parent)
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def _hub(problems: list[str]) -> dict[str, Any]:
    """Ask the hub; whatever the environment has wrong about it is a problem, too."""
    from gguf_hub.errors import GgufHubError
    from gguf_hub.hub.client import HfHub, is_offline

    found: dict[str, Any] = {"endpoint": None, "is_offline": is_offline()}
    found |= {"problem": None, "has_token": False}
    try:
        hub = HfHub()
        found["endpoint"] = hub.endpoint
        found["has_token"] = hub.has_token()
        found["problem"] = None if is_offline() else hub.ping(timeout_s=PING_TIMEOUT_S)
    except GgufHubError as error:
        problems.append(f"hub: {error.message}")
        return found | {"problem": error.message}
    if found["problem"]:
        problems.append(f"hub: {found['problem']}")
    if hub.is_exposed():
        secret = "the token travels in clear text" if found["has_token"] else "files can be changed"
        problems.append(f"hub: {hub.endpoint} is plain http: {secret}")
    return found


def _catalog(catalog_path: Path | None, problems: list[str]) -> dict[str, Any]:
    from gguf_hub.errors import CatalogError
    from gguf_hub.hub.catalog import find_catalog, load_catalog

    found = {"path": str(find_catalog(catalog_path)), "repo_id": None, "n_files": 0}
    try:
        catalog = load_catalog(catalog_path)
    except CatalogError as error:
        problems.append(error.message)
        return found
    return {**found, "repo_id": catalog.repo_id, "n_files": len(catalog.files)}
