"""Conversions that are kept: the GGUF file of a checkpoint, made once.

All of it can be made again: whoever needs the room removes the files.
"""

from __future__ import annotations

from pathlib import Path

from gguf_hub.conversions import kept_folder, key_of, write_note
from gguf_hub.oserrors import translate_os_errors
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.convert.conversion import Conversion, OutType, plan_conversion


def find_kept(folder: Path, outtype: OutType = "auto") -> Path | None:
    """Return the GGUF file that was made of a checkpoint as it is now; None if there is none."""
    return next(iter(sorted(kept_folder().glob(f"*.{key_of(folder, outtype)}.gguf"))), None)


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
    file = f"{title}.{plan.type.name}.{key_of(folder, outtype)}.gguf"
    return plan, kept_folder() / file


def write_kept(
    plan: Conversion, path: Path, folder: Path, *, outtype: OutType = "auto",
    progress: Progress = SILENT,
) -> Path:  # fmt: skip
    """Write a conversion where it is kept, and note what it was made of.

    Args:
        plan: From ``plan_kept``.
        path: Likewise.
        folder: The checkpoint.
        outtype: As ``plan_kept`` got it.
        progress: Shows the bytes written.

    Raises:
        CheckpointError: A weight that the type cannot hold.
        DiskFullError: Not enough space.
    """
    with translate_os_errors(f"cannot make the folder `{path.parent}`"):
        path.parent.mkdir(parents=True, exist_ok=True)
    plan.write(path, progress=progress)
    write_note(path, folder, outtype)
    return path
