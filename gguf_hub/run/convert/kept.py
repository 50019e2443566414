"""Conversions that are kept: the GGUF file of a checkpoint, made once.

They lie below gguf-hub's own cache folder, ``converted/KEY/NAME.gguf``. The key stands for the
checkpoint's files (names, sizes, times of change) and the type: when one changes, another file is
made. All of it can be made again: whoever needs the room removes the folder.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from gguf_hub.paths import cache_dir
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.convert.conversion import Conversion, OutType, plan_conversion

_FORMAT = 1
"""Raised when a converter writes something else of the same checkpoint."""


def kept_folder() -> Path:
    """Return the folder of all conversions (it may not exist yet)."""
    return cache_dir() / "converted"


def find_kept(folder: Path, outtype: OutType = "auto") -> Path | None:
    """Return the GGUF file that was made of a checkpoint as it is now; None if there is none."""
    return next(iter(sorted(_place(folder, outtype).glob("*.gguf"))), None)


def plan_kept(
    folder: Path, *, name: str | None = None, outtype: OutType = "auto"
) -> tuple[Conversion, Path]:
    """Return the conversion of a checkpoint, and the file to write.

    Args:
        folder: The checkpoint.
        name: ``general.name``; the folder's by default.
        outtype: Type of matrices.

    Raises:
        CheckpointError: It cannot be converted.
    """
    plan = plan_conversion(folder, outtype=outtype, name=name)
    title = (name or folder.resolve().name).replace("/", "-")
    return plan, _place(folder, outtype) / f"{title}.{plan.type.name}.gguf"


def write_kept(plan: Conversion, path: Path, progress: Progress = SILENT) -> Path:
    """Write a conversion where it is kept.

    Raises:
        CheckpointError: A weight that the type cannot hold.
        DiskFullError: Not enough space.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        plan.write(path, progress=progress)
    finally:
        if not path.exists():
            _remove_empty(path.parent)
    return path


def _remove_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()


def _place(folder: Path, outtype: OutType) -> Path:
    """Return the folder that belongs to a checkpoint as it is now."""
    files = []
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".model", ".jinja") and path.is_file():
            stat = path.stat()
            files.append([path.name, stat.st_size, stat.st_mtime_ns])
    stated = json.dumps([_FORMAT, outtype, str(folder.resolve()), files])
    return kept_folder() / hashlib.sha256(stated.encode()).hexdigest()[:24]
