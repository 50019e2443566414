"""Where modules may be imported from: never the working folder, which may hold anybody's files.

A downloaded repository may contain a ``numpy.py``. Python puts the working folder first on
``sys.path`` for ``python -m``, and for an empty entry of ``PYTHONPATH``.

This module imports only what Python has loaded before any line of ours runs: every other import
would already search the folders in question. ``__future__`` and ``pathlib`` are such files, too.
"""

import os
import sys

PACKAGE = os.path.dirname(os.path.abspath(__file__))
"""The folder of this package."""


def leave_working_folder() -> None:
    """Take the working folder off ``sys.path`` of this process; see ``trusted_entries``."""
    sys.path[:] = trusted_entries(sys.path)


def trusted_entries(entries: list[str]) -> list[str]:
    """Return the entries of an import path that do not depend on the working folder.

    Python makes empty and relative entries of ``PYTHONPATH`` absolute, after which they look like
    any other: they are recognised by where they lead. The working folder stays where it is a folder
    of modules: the standard library, site-packages, or the folder that this package was imported
    from (of a checkout, for example).
    """
    own = {_identity(folder) for folder in _own_folders()}
    refused = {_identity(folder) for folder in _relative_folders()} - own
    return [e for e in entries if os.path.isabs(e) and _identity(e) not in refused]


def _relative_folders() -> list[str]:
    """Return the working folder, and relative entries of PYTHONPATH."""
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [os.curdir, *(entry for entry in entries if entry and not os.path.isabs(entry))]


def _own_folders() -> list[str]:
    """Return the folders of the standard library, of installed packages, and of this package."""
    library = os.path.dirname(os.__file__)
    folders = [os.path.dirname(PACKAGE), library, os.path.join(library, "lib-dynload")]
    site = sys.modules.get("site")
    if site is not None:
        folders += site.getsitepackages()
        folders += [site.USER_SITE] if site.USER_SITE else []
    return folders


def _identity(path: str) -> tuple[int, int] | str:
    """Return the same value for all names of a folder, and another for every other folder."""
    try:
        status = os.stat(path)
        return status.st_dev, status.st_ino
    except (OSError, ValueError):  # there is none (yet)
        return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)
