"""The token of a cluster: who does not have it is refused by Ray."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import MutableMapping
from pathlib import Path

from gguf_hub.errors import ClusterError, UsageError
from gguf_hub.files import write_atomically
from gguf_hub.ownership import make_own_folder, read_own_file
from gguf_hub.paths import data_dir

TOKEN_VARIABLE = "GGUF_HUB_CLUSTER_TOKEN"
_VALID = re.compile(r"[\w-]{32,256}")
_RAYS_OWN = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE")


def token_path() -> Path:
    """Return where this machine keeps the token of its cluster."""
    return data_dir() / "cluster" / "token"


def make_token() -> str:
    """Return the token that this machine keeps; a new one if it has none.

    Raises:
        ClusterError: It cannot be kept where nobody else could have written it.
    """
    return read_token() or keep_token(secrets.token_hex(32))


def read_token() -> str | None:
    """Return the token that this machine keeps, or None.

    Raises:
        ClusterError: Somebody else could have written it.
    """
    try:
        return read_own_file(token_path()).decode().strip() or None
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise ClusterError(f"the cluster's token cannot be used: {exc}",
                           hint=f"remove `{token_path()}`") from exc  # fmt: skip


def keep_token(token: str) -> str:
    """Keep a token for the next commands, readable by this user alone.

    Raises:
        UsageError: It is none.
        ClusterError: It cannot be kept.
    """
    if not _VALID.fullmatch(token):
        raise UsageError(f"{TOKEN_VARIABLE}: expected the token that `gguf-hub cluster up` printed")
    path = token_path()
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    if weakness := make_own_folder(path.parent):
        raise ClusterError(f"the cluster's token cannot be kept in `{path.parent}`: {weakness}")
    write_atomically(path, token)
    path.chmod(0o600)
    return token


def use_token(variables: MutableMapping[str, str] = os.environ) -> None:
    """Let Ray send the token that this machine keeps, unless the user has told Ray otherwise."""
    if any(name in variables for name in _RAYS_OWN):
        return
    token = variables.get(TOKEN_VARIABLE)
    if token:
        variables["RAY_AUTH_MODE"], variables["RAY_AUTH_TOKEN"] = "token", token
    elif read_token() is not None:
        variables["RAY_AUTH_MODE"] = "token"
        variables["RAY_AUTH_TOKEN_PATH"] = str(token_path())
