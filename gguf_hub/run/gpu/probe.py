"""Measures how fast each GPU reads weights, once, and remembers the figure.

A process of its own measures, as a driver may crash. A figure holds for this machine, the GPU and
its driver, and for the kernels: those of this version of gguf-hub, compiled by this one of wgpu.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version

from gguf_hub import __version__
from gguf_hub.errors import GpuError
from gguf_hub.machine_files import positive, read_machine_file, write_machine_file
from gguf_hub.run.gpu.adapters import VARIABLES, Adapter
from gguf_hub.run.gpu.device import AdapterInfo
from gguf_hub.subprocesses import ask_python

_FILENAME = "gpu_speeds.json"
_TIMEOUT_S = 20.0  # measuring takes two seconds, compiling on a slow driver more


def recall_bandwidth(info: AdapterInfo) -> float | None:
    """Return the bytes of weights a second that were measured before; None for a new GPU."""
    return positive(read_machine_file(_FILENAME).get(_key(info)))


def probe_bandwidth(adapter: Adapter) -> float:
    """Return how many bytes of weights a second a GPU reads, measured if it is not known yet.

    Raises:
        GpuError: It cannot be used, or measuring failed; that is not remembered.
    """
    if adapter.problem:
        raise GpuError(f"`{adapter.info.name}` is not measured: {adapter.problem}")
    known = recall_bandwidth(adapter.info)
    if known is None:
        known = _ask(adapter)
        rows = read_machine_file(_FILENAME)
        write_machine_file(_FILENAME, rows | {_key(adapter.info): known})
    return known


def _ask(adapter: Adapter) -> float:
    failed = f"measuring `{adapter.info.name}` failed"
    arguments = [str(adapter.index), json.dumps(asdict(adapter.info))]
    try:
        answer = ask_python(
            "gguf_hub.run.gpu.bandwidth", arguments, timeout_s=_TIMEOUT_S, passed=VARIABLES
        )
    except TimeoutError as error:
        raise GpuError(f"{failed}: no answer in {_TIMEOUT_S:.0f} s") from error
    try:
        said = json.loads(answer.stdout.strip().rpartition("\n")[2])
    except ValueError:
        said = None
    row = said if isinstance(said, dict) else {}
    bytes_per_s = positive(row.get("bytes_per_s"))
    if answer.returncode or bytes_per_s is None:
        code = answer.returncode
        how = f"signal {-code}" if code < 0 else f"code {code}"
        raise GpuError(f"{failed}: {row.get('problem') or how}")
    return bytes_per_s


def _key(info: AdapterInfo) -> str:
    """Return what a figure holds for."""
    try:
        wgpu = version("wgpu")
    except PackageNotFoundError:
        wgpu = "none"
    card = f"{info.name}, {info.vendor_id:04x}:{info.device_id:04x}"
    driver = f"{info.backend} {info.driver}"
    return f"{platform.node()}, {card}, {driver}, wgpu {wgpu}, gguf-hub {__version__}"
