"""Conversions that are kept: the GGUF file of a checkpoint, made once.

They lie below gguf-hub's own cache folder, ``converted/NAME.TYPE.KEY.gguf``. The key stands for the
checkpoint's files (names, sizes, times of change) and the type: when one changes, another file is
made. All of it can be made again: whoever needs the room removes the folder.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from gguf_hub.oserrors import translate_os_errors
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
    return next(iter(sorted(kept_folder().glob(f"*.{_key(folder, outtype)}.gguf"))), None)


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
    file = f"{title}.{plan.type.name}.{_key(folder, outtype)}.gguf"
    return plan, kept_folder() / file


def write_kept(plan: Conversion, path: Path, progress: Progress = SILENT) -> Path:
    """Write a conversion where it is kept.

    Raises:
        CheckpointError: A weight that the type cannot hold.
        DiskFullError: Not enough space.
    """
    with translate_os_errors(f"cannot make the folder `{path.parent}`"):
        path.parent.mkdir(parents=True, exist_ok=True)
    plan.write(path, progress=progress)
    return path


def _key(folder: Path, outtype: OutType) -> str:
    """Return what stands for a checkpoint as it is now, and a type."""
    files = []
    with translate_os_errors(f"cannot read the folder `{folder}`"):
        for path in sorted(folder.iterdir()):
            if path.suffix in (".json", ".safetensors", ".model", ".jinja") and path.is_file():
                stat = path.stat()
                files.append([path.name, stat.st_size, stat.st_mtime_ns])
    stated = json.dumps([_FORMAT, outtype, str(folder.resolve()), files])
    return hashlib.sha256(stated.encode("utf-8", "surrogateescape")).hexdigest()[:16]
