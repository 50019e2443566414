"""Errors of the file system while files are fetched, with the next step."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from gguf_hub.errors import DownloadError
from gguf_hub.oserrors import translate_os_errors


def translate_disk_errors(path: Path) -> AbstractContextManager[None]:
    """Turn errors of the file system about a file that is written into ours."""
    return translate_os_errors(
        f"cannot write `{path}`",
        DownloadError,
        full_hint="free some space and repeat the command: it resumes the download",
        path=path,
        hint="check the folder and who owns it, or choose another with --local-dir",
    )
