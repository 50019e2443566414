"""Every process that gguf-hub starts, in one place.

A child gets nothing that it does not need: no file of the working folder can be imported or run by
it, and no token or key is in its environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

from gguf_hub.errors import GgufHubError
from gguf_hub.importpath import PACKAGE, trusted_entries
from gguf_hub.oserrors import reason_of

Process = subprocess.Popen[bytes]
_NEEDED = (
    *("PATH", "HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP", "LANG", "LANGUAGE", "LC_*"),
    *("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT"),
    *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"),
)
"""Variables that children get, as patterns. ``GGUF_HUB_*`` is none: some of those are secrets."""

NETWORK = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)
"""Variables of a child that uses the network; an address of a proxy may hold its password."""

_LISTS = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH")


def start_python(
    module: str,
    arguments: Sequence[str] = (),
    *,
    stderr: IO[bytes] | int = subprocess.DEVNULL,
    variables: Mapping[str, str] | None = None,
    passed: Sequence[str] = (),
) -> Process:
    """Start ``main(arguments)`` of one of our modules in a Python of its own.

    Its stdin and stdout are pipes. It imports from where this process does, except for the working
    folder and relative entries of ``sys.path``.

    Args:
        module: Full name, e.g. ``gguf_hub.run.kernels.build.children``.
        arguments: Visible to every user of the machine: no secrets.
        stderr: Where messages go; nowhere by default.
        variables: Environment variables to set.
        passed: Names of more variables of ours that it needs, e.g. ``NETWORK``.

    Raises:
        GgufHubError: Nobody knows where Python is, or it cannot be started.
    """
    if not sys.executable:
        raise GgufHubError("cannot start Python: `sys.executable` is empty")
    flags = ["-I", "-B"] if sys.dont_write_bytecode else ["-I"]
    bootstrap = str(Path(PACKAGE, "bootstrap.py"))
    entries = json.dumps(trusted_entries(sys.path))
    try:
        return subprocess.Popen(
            [os.path.abspath(sys.executable), *flags, bootstrap, entries, module, *arguments],  # noqa: PTH100 (a virtual environment's Python is a link)
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=PACKAGE,
            env=_environment(passed) | dict(variables or {}),
        )
    except OSError as error:
        raise GgufHubError(f"cannot start `{sys.executable}`: {reason_of(error)}") from error


def ask_python(
    module: str, arguments: Sequence[str] = (), *, timeout_s: float, passed: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run ``main(arguments)`` of one of our modules in a Python of its own; return what it printed.

    Args:
        module: As ``start_python``.
        arguments: As ``start_python``.
        timeout_s: After that it is killed.
        passed: As ``start_python``.

    Raises:
        TimeoutError: It took too long.
        GgufHubError: It cannot be started.
    """
    with start_python(module, arguments, passed=passed) as child:
        try:
            out, _ = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"`{module}` took longer than {timeout_s} s") from error
        finally:
            child.kill()
    text = out.decode("utf-8", "replace")
    return subprocess.CompletedProcess(child.args, child.returncode, text)


def run_program(words: Sequence[str], *, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a program of the system and return what it printed.

    Args:
        words: The program's absolute path (see ``find_program``) and its arguments.
        timeout_s: After that it is killed.

    Raises:
        TimeoutError: It took too long.
        OSError: It cannot be run.
    """
    assert Path(words[0]).is_absolute(), words[0]
    try:
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            cwd=PACKAGE,
            env=_environment(),
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"`{words[0]}` took longer than {timeout_s} s") from error


def find_program(name: str) -> str | None:
    """Return the absolute path of a program, by ``PATH``.

    Never from the working folder, where Windows and ``shutil.which`` look first there, nor through
    entries of ``PATH`` that are empty or relative.
    """
    suffixes = os.environ.get("PATHEXT", ".EXE").split(os.pathsep) if os.name == "nt" else [""]
    for folder in _absolute(os.environ.get("PATH", os.defpath)):
        for suffix in suffixes:
            path = Path(folder, name + suffix)
            if path.is_file() and os.access(path, os.X_OK):
                return str(path)
    return None


def _environment(passed: Sequence[str] = ()) -> dict[str, str]:
    """Return those variables of ours that a child gets."""
    patterns = (*_NEEDED, *passed)
    variables = {
        name: value
        for name, value in os.environ.items()
        if any(fnmatchcase(name.upper(), pattern) for pattern in patterns)
    }
    for name in _LISTS:
        if entries := _absolute(variables.pop(name, "")):
            variables[name] = os.pathsep.join(entries)
    return variables


def _absolute(entries: str) -> list[str]:
    """Return the entries of a list of folders that do not depend on the working folder."""
    return [entry for entry in entries.split(os.pathsep) if Path(entry).is_absolute()]
