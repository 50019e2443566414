"""Which GPUs there are, which of them can be used, and why not the others, without opening one.

A driver is asked in a process of its own: one that fails ends the process that asks (an ``abort``
in a library, or a panic in wgpu's Rust, is no exception that Python could catch). That takes half a
second, so what it said is remembered for a day, for as long as drivers, devices and wgpu stay the
same.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gguf_hub.errors import GgufHubError
from gguf_hub.machine_files import read_machine_file, write_machine_file
from gguf_hub.paths import expand_user
from gguf_hub.run.gpu.device import AdapterInfo
from gguf_hub.subprocesses import ask_python

EXTRA = "`pip install 'gguf-hub[gpu]'`"
SOFTWARE_VARIABLE = "GGUF_HUB_SOFTWARE_GPU"
"""Set to 1, adapters that compute on the CPU count as GPUs: for tests."""

_OLDEST_PYTHON = (3, 11)
_WGPU = "0.32"  # whose C interface ``wgpu_device`` uses
_TIMEOUT_S = 20.0  # a driver that hangs must not hang us
_MAX_AGE_S = 86_400.0
_FILENAME = "gpus.json"
_SOFTWARE = re.compile(r"llvmpipe|lavapipe|swiftshader|microsoft basic render|softpipe", re.I)
VARIABLES = (
    *("VK_*", "MESA_*", "WGPU_*", "*_VISIBLE_*", "NODEVICE_SELECT", "DRI_PRIME"),
    *("XDG_DATA_*", "XDG_CONFIG_*", "XDG_RUNTIME_DIR"),
)
"""Variables that change what drivers say, for the processes that ask them."""
_DEVICES = ("dri/renderD*", "nvidia[0-9]*", "dxg", "nvhost-gpu", "nvgpu/*")
"""Below ``/dev``; ``dxg`` is that of Windows' subsystem for Linux, the last two are Jetson's."""
_DRIVER_FOLDERS = ("/usr/share", "/usr/local/share", "/etc", "~/.local/share")


@dataclass(frozen=True)
class Adapter:
    """A GPU that a driver offers.

    Attributes:
        index: Its number, as ``list_adapters`` counts.
        info: The driver's description.
        problem: Why it is not used; empty where it can be.
    """

    index: int
    info: AdapterInfo
    problem: str = ""


@dataclass(frozen=True)
class GpuReport:
    """The GPUs of this machine.

    Attributes:
        adapters: All that drivers offer.
        problem: Why none can be used, in one line; empty where one can.
        hint: What helps.
    """

    adapters: tuple[Adapter, ...] = ()
    problem: str = ""
    hint: str = ""

    @property
    def usable(self) -> tuple[Adapter, ...]:
        """Those that can be used."""
        return tuple(adapter for adapter in self.adapters if not adapter.problem)


def may_have_gpu() -> bool:
    """Tell, without asking drivers, whether there can be a GPU: Linux lists their devices."""
    if os.environ.get(SOFTWARE_VARIABLE) == "1" or not sys.platform.startswith("linux"):
        return True
    return any(path for pattern in _DEVICES for path in Path("/dev").glob(pattern))


def find_gpus(*, is_fresh: bool = False) -> GpuReport:
    """Return the GPUs that can be used here, and why others cannot; never raises.

    Args:
        is_fresh: Ask the drivers again, and remember nothing of it.
    """
    if sys.version_info < _OLDEST_PYTHON:
        return GpuReport(problem=f"Python {platform.python_version()}: GPUs need Python 3.11 or "
                                 "later", hint="install gguf-hub in a newer Python")  # fmt: skip
    try:
        installed = version("wgpu")
    except PackageNotFoundError:
        return GpuReport(problem="the extra `gpu` is not installed", hint=EXTRA)
    if not installed.startswith(_WGPU + "."):
        return GpuReport(problem=f"wgpu {installed} is installed, {_WGPU} is needed", hint=EXTRA)
    try:
        if is_fresh:
            return judge(_ask())
        infos = _remembered()
        if infos is None:
            infos = _ask()
            _remember(infos)
        return judge(infos)
    except GgufHubError as error:
        return GpuReport(problem=error.message, hint="update the driver of the GPU (docs/gpu.md)")


def judge(infos: Sequence[AdapterInfo]) -> GpuReport:
    """Say which of the adapters that drivers offer can be used."""
    adapters = tuple(Adapter(i, info, _problem(info)) for i, info in enumerate(infos))
    if not adapters:
        return GpuReport(
            problem="no driver for Vulkan, Metal or Direct3D 12 offers a GPU",
            hint="docs/gpu.md says which driver is needed",
        )
    if all(adapter.problem for adapter in adapters):
        names = ", ".join(dict.fromkeys(f"`{adapter.info.name}`" for adapter in adapters))
        return GpuReport(
            adapters,
            f"no GPU but software: {names}",
            "docs/gpu.md says which driver is needed",
        )
    return GpuReport(adapters)


def _problem(info: AdapterInfo) -> str:
    is_software = info.is_software or _SOFTWARE.search(info.name)
    if is_software and os.environ.get(SOFTWARE_VARIABLE) != "1":
        return "software, slower than our own kernels for the CPU"
    return ""


# ---- asking drivers ----------------------------------------------------------------------------


def _ask() -> list[AdapterInfo]:
    """Ask the drivers in another process.

    Raises:
        GgufHubError: A driver crashed, hung, or the process cannot be started.
    """
    try:
        answer = ask_python("gguf_hub.run.gpu.adapters", timeout_s=_TIMEOUT_S, passed=VARIABLES)
    except TimeoutError as error:
        raise GgufHubError(f"GPU drivers gave no answer in {_TIMEOUT_S:.0f} s") from error
    infos = _read(answer.stdout.strip().rpartition("\n")[2])
    code = answer.returncode
    if code or infos is None:
        how = f"signal {-code}" if code < 0 else f"code {code}"
        raise GgufHubError(f"asking the GPU drivers what there is failed ({how})")
    return infos


def main(arguments: Sequence[str]) -> int:
    """Print what drivers offer as JSON: the child of ``_ask``."""
    from gguf_hub.run.gpu.wgpu_device import list_adapters

    print(json.dumps([asdict(info) for info, _ in list_adapters()]), flush=True)  # noqa: T201
    os._exit(0)  # some drivers crash when they are unloaded


def _read(text: str) -> list[AdapterInfo] | None:
    """Return adapters from JSON; None where it is something else."""
    types = {field.name: {"str": str, "int": int}[str(field.type)] for field in fields(AdapterInfo)}
    try:
        rows = json.loads(text)
        if all({name: type(value) for name, value in row.items()} == types for row in rows):
            return [AdapterInfo(**row) for row in rows]
    except (ValueError, TypeError, AttributeError):
        pass
    return None


# ---- remembering what they said ----------------------------------------------------------------


def _remembered() -> list[AdapterInfo] | None:
    """Return what drivers said within a day, if they and the devices are still the same."""
    try:
        entry = read_machine_file(_FILENAME)
        is_new = 0 <= time.time() - float(entry["time_s"]) < _MAX_AGE_S
        infos = _read(json.dumps(entry["adapters"]))
        return infos if is_new and entry["key"] == _key() else None
    except (ValueError, TypeError, KeyError):
        return None


def _remember(infos: Sequence[AdapterInfo]) -> None:
    """Write the answer down; that there is none is asked again, as people then mend it."""
    if infos:
        entry: dict[str, Any] = {"key": _key(), "time_s": time.time()}
        entry["adapters"] = [asdict(info) for info in infos]
        write_machine_file(_FILENAME, entry)


def _key() -> str:
    """Return a name for what an answer depends on: machine, wgpu, drivers, devices, settings."""
    return sha256("\n".join(_facts()).encode(errors="surrogateescape")).hexdigest()


def _facts() -> Iterator[str]:
    yield f"{platform.node()} {platform.release()} {platform.version()} wgpu {version('wgpu')}"
    for name in sorted(os.environ):
        if any(fnmatchcase(name, pattern) for pattern in VARIABLES):
            yield f"{name}={os.environ[name]}"
    for base in _DRIVER_FOLDERS:
        yield from _listing(expand_user(base) / "vulkan/icd.d")
    for pattern in (*_DEVICES, "nvidia*"):
        yield from _listing(Path("/dev"), pattern)
    with suppress(OSError):
        yield Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")


def _listing(folder: Path, pattern: str = "*") -> Iterator[str]:
    """Yield each file with its date, and whether this user may write to it, as to a device."""
    for path in sorted(folder.glob(pattern)):
        with suppress(OSError):
            dated = path.is_file() and path.stat().st_mtime_ns
            yield f"{path} {dated} {os.access(path, os.R_OK | os.W_OK)}"
