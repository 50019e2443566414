"""huggingface_hub and its HTTP client, made from the environment: proxies, certificates, timeouts.

Whatever the environment has wrong is an error of ours that names the variable.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from gguf_hub.errors import UsageError
from gguf_hub.hub.client.endpoint import origin_of
from gguf_hub.hub.client.redaction import redact_library_logs, without_credentials
from gguf_hub.oserrors import reason_of

DEFAULT_TIMEOUT_S = 10.0
TIMEOUT_VARIABLE = "HF_HUB_DOWNLOAD_TIMEOUT"
# huggingface_hub reads these when it is imported, and fails with them
_SECONDS = (TIMEOUT_VARIABLE, "HF_HUB_ETAG_TIMEOUT")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
_HTTP, _SOCKS = ("http", "https"), ("socks5", "socks5h")
_OWN = ("HF_", "HUGGINGFACE_", "HUGGING_FACE_", "XDG_CACHE_HOME")
_IMPORTING = threading.Lock()


def huggingface_hub() -> Any:
    """Return the module, imported when it is first needed.

    Raises:
        UsageError: A variable of the environment has a value that it cannot work with.
    """
    check_timeouts()
    # what warnings are shown is one setting for all threads: only one of them may touch it
    with _IMPORTING:
        return _import_quietly()


def client() -> Any:
    """Return the HTTP client that all of huggingface_hub shares.

    Raises:
        UsageError: The environment names a proxy or certificates that cannot be used.
    """
    huggingface_hub()
    _check_proxies()
    try:
        return _shared_client()
    except Exception as error:
        problem = _client_problem(error)
    # not chained: the exception may quote a proxy with its password
    raise problem


def http_library() -> Any:
    """Return httpx, or its successor where huggingface_hub uses that (from 2.0 on)."""
    huggingface_hub()
    try:
        from huggingface_hub.utils import httpx
    except ImportError:  # before 1.20 it does not say; before 1.0 it uses requests
        import httpx
    return httpx


def check_timeouts() -> None:
    """Check the variables that hold seconds.

    Raises:
        UsageError: One is not a whole number from 1 on.
    """
    for name in _SECONDS:
        value = os.environ.get(name, "").strip()
        is_number = value.isascii() and value.isdecimal() and len(value) < 7
        if value and not (is_number and int(value) > 0):
            raise UsageError(
                f"{name} is {value[:40]!r}: expected a whole number of seconds, 1 or more",
                hint=f"unset {name}, or set it to something like 10",
            )


def timeout_s() -> float:
    """Return how long a server may be silent; raises as ``check_timeouts``."""
    check_timeouts()
    return float(os.environ.get(TIMEOUT_VARIABLE, "").strip() or DEFAULT_TIMEOUT_S)


def _shared_client() -> Any:
    from huggingface_hub.utils import get_session

    session = get_session()
    return session if isinstance(session, http_library().Client) else _own_client()


@functools.cache
def _own_client() -> Any:
    """Return a client like that of huggingface_hub 1.0, for a version whose sessions are others."""
    return http_library().Client(follow_redirects=True, timeout=None)


@functools.cache
def _import_quietly() -> Any:
    redact_library_logs()
    is_ours = "huggingface_hub.constants" not in sys.modules
    with warnings.catch_warnings(), _without_empty_variables():
        # it warns at import of HF_HUB_ENABLE_HF_TRANSFER, which the command line explains itself
        warnings.simplefilter("ignore", FutureWarning)
        import huggingface_hub
        import huggingface_hub.constants as constants  # the rest is imported when it is used

    # requests of its own would carry the password of HF_ENDPOINT in their address; afterwards, as
    # other threads may read the variable meanwhile
    for name, value in list(vars(constants).items()) if is_ours else ():
        if isinstance(value, str) and "@" in value:
            setattr(constants, name, without_credentials(value))
    return huggingface_hub


@contextmanager
def _without_empty_variables() -> Iterator[None]:
    """Unset empty variables: huggingface_hub fails with some, and takes "" for a folder."""
    names = [name for name in os.environ if name.startswith(_OWN) and not os.environ[name].strip()]
    empty = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(empty)


def _client_problem(error: Exception) -> UsageError:
    """Return our error for a client that could not be made; it names the likely variable."""
    import ssl

    if isinstance(error, OSError):  # ssl.SSLError is one
        name = next((each for each in _CERTIFICATES if os.environ.get(each)), "")
        reason = "no certificates in it" if isinstance(error, ssl.SSLError) else reason_of(error)
        return UsageError(
            f"{name or 'the certificate store'} cannot be used: {reason}",
            hint="name a file of certificates in PEM format, or unset the variable",
        )
    return UsageError(
        f"no HTTP client can be made from the environment: {type(error).__name__}",
        hint=f"check {', '.join(_PROXIES)} and NO_PROXY",
    )


def _check_proxies() -> None:
    """Check the variables that name proxies; a client takes some for a host that nobody knows.

    Raises:
        UsageError: One is no address of a proxy. It is not quoted, as it may hold a password.
    """
    for name in (variant for each in _PROXIES for variant in (each.lower(), each)):
        value = os.environ.get(name, "")
        scheme, _, rest = (value if "://" in value else f"http://{value}").partition("://")
        is_socks = scheme.lower() in _SOCKS
        if not value.strip():
            continue
        if origin_of(f"http://{rest}") is None or not (is_socks or scheme.lower() in _HTTP):
            raise UsageError(
                f"{name} is not the address of a proxy: expected `http://HOST:PORT`",
                hint=f"unset {name}, or set it to such an address",
            )
        if is_socks and find_spec("socksio") is None:
            raise UsageError(
                f"{name} names a SOCKS proxy, which needs the package `socksio`",
                hint="`pip install socksio`, or name an HTTP proxy",
            )
