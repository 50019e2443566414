"""The reference data of ``tests/data``, unpacked once for each process that asks for it."""

from __future__ import annotations

import tarfile
import tempfile
from functools import cache
from pathlib import Path

ARCHIVES = Path(__file__).with_name("data")


def reference_data() -> Path:
    """Return the folder that holds ``models``, ``vocab``, ``quants`` and so on."""
    return Path(_unpacked().name)


@cache
def _unpacked() -> tempfile.TemporaryDirectory[str]:
    """Unpack all archives (10 MB, 0.4 s) into a folder that is removed when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="gguf-hub-tests-", ignore_cleanup_errors=True)
    # the archives are part of the repository; older releases of Python 3.10 have no filters
    options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    for path in sorted(ARCHIVES.glob("*.tar.xz")):
        with tarfile.open(path) as archive:
            archive.extractall(folder.name, **options)
    return folder
