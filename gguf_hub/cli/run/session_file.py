"""Session files, which ``/save`` writes and ``/load`` reads."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from gguf_hub.errors import GgufHubError, UsageError
from gguf_hub.oserrors import reason_of
from gguf_hub.paths import expand_user

_STARTS = (b'{\n "kind": "text",', b'{\n "kind": "chat",')
"""How ``save`` begins: the state's first key."""


def path_argument(text: str, command: str) -> Path:
    """Return the path argument of a command.

    Raises:
        UsageError: It is missing.
    """
    if not text:
        raise UsageError(f"{command}: expected a file name")
    return expand_user(text)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a session; only a saved session is replaced.

    Raises:
        GgufHubError: Another file is there, or it cannot be written.
    """
    from gguf_hub.files import require_ours, write_atomically

    require_ours(path, "a saved session", lambda head: head.startswith(_STARTS))
    data = json.dumps(state, indent=1, ensure_ascii=False)
    assert data.encode("utf-8", "surrogateescape").startswith(_STARTS), "the kind comes first"
    try:
        if not path.absolute().parent.is_dir():
            raise FileNotFoundError(2, os.strerror(2))
        write_atomically(Path(os.path.realpath(path)), data)
    except OSError as exc:
        raise GgufHubError(f"cannot write `{path}`: {reason_of(exc)}") from exc
    except UnicodeEncodeError as exc:
        raise GgufHubError(f"cannot write `{path}`: {exc}") from exc


def load(path: Path) -> Any:
    """Return the content of a file, unchecked.

    Raises:
        GgufHubError: It cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise GgufHubError(f"cannot read `{path}`: {reason_of(exc)}") from exc
    except (ValueError, RecursionError) as exc:
        raise GgufHubError(f"`{path}` is not a saved session") from exc
