"""The access token: where it comes from, and that it can stand in a header. It is never shown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from gguf_hub.errors import HubError, UsageError
from gguf_hub.oserrors import reason_of

VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def find_token(token: str | None, hf: Any) -> str | None:
    """Return the token for requests to the hub, or None where there is none.

    Args:
        token: From the command line or a program; when None, the environment and then what
            ``hf auth login`` has saved are used.
        hf: The module ``huggingface_hub``.

    Raises:
        UsageError: What should be a token cannot be one; the message names where it stands.
        HubError: A login service refuses to give one.
    """
    if token is not None:
        return clean_token(token, "the token of --token")
    if hf.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        return None
    if os.environ.get("HF_OIDC_RESOURCE"):
        return _get_hf_token(hf, "the token for HF_OIDC_RESOURCE")
    for name in VARIABLES:
        # an empty variable is an unset one, as for huggingface_hub
        if value := _strip(os.environ.get(name, "")):
            return clean_token(value, f"the token in {name}")
    path = Path(hf.constants.HF_TOKEN_PATH)
    source = f"the token in `{path}`"
    saved = _read(path, source)
    # an empty file is what a failed login or `>` leaves: no token
    own = clean_token(saved, source) if _strip(saved) else None
    # asked all the same: huggingface_hub renews tokens of a browser login, and knows Colab's
    return _get_hf_token(hf, source) or own


def clean_token(value: str, source: str) -> str:
    """Return a token without what editors, shells and files put around it.

    Args:
        value: The token as it was found.
        source: Where it was found, for the message.

    Raises:
        UsageError: Nothing is left, or something that no header may hold.
    """
    token = _strip(value)
    hint = "copy the token anew, or log in again with `hf auth login`"
    if not token:
        raise UsageError(f"{source} is empty", hint=f"{hint}; public files need none")
    if any(not "!" <= letter <= "~" for letter in token):
        raise UsageError(
            f"{source} is not usable: it has a space, a control character or a character that is "
            "not ASCII inside",
            hint=hint,
        )
    return token


def _strip(value: str) -> str:
    return value.strip().strip("\ufeff").strip()


def _read(path: Path, source: str) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError:
        reason = "it is not text in UTF-8"
    except OSError as error:
        reason = reason_of(error)
    # not chained: the exception holds the bytes of the file
    raise UsageError(
        f"{source} cannot be read: {reason}",
        hint="log in again with `hf auth login`, or remove the file: public files need no token",
    )


def _get_hf_token(hf: Any, source: str) -> str | None:
    """Return what huggingface_hub finds or renews."""
    try:
        token = hf.get_token()
    except Exception as error:
        kind = type(error).__name__
    else:
        return clean_token(token, source) if token and _strip(token) else None
    # not chained, and not quoted: the exceptions of login services hold tokens
    raise HubError(
        f"{source} cannot be had: {kind}", hint="unset HF_OIDC_RESOURCE, or pass --token"
    )
