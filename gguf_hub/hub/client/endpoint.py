"""The address of a hub: which URLs are its own origin, and what of it may be shown.

Knows no HTTP library: the command line needs the address long before it needs a connection.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from gguf_hub.errors import UsageError

DEFAULT_ENDPOINT = "https://huggingface.co"
_DEFAULT_PORTS = {"http": 80, "https": 443}
# what parsers of URLs disagree about: a backslash, a space, a control character
_AMBIGUOUS = re.compile(r"[\x00-\x20\x7f\\]")

Origin = tuple[str, str, int]


def origin_of(url: str) -> Origin | None:
    """Return scheme, host and port of a URL; None for what is no http(s) URL.

    Source: RFC 6454 section 4. ``https`` and ``http`` of one host are two origins.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if _AMBIGUOUS.search(url) or parts.scheme not in _DEFAULT_PORTS or not host:
        return None
    return parts.scheme, host.lower(), port or _DEFAULT_PORTS[parts.scheme]


def show_origin(url: str) -> str:
    """Return the origin of a URL for a message: no path, no query, no user name or password."""
    origin = origin_of(url)
    if origin is None:
        scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]{0,19}:", url)
        return scheme[0] if scheme else "no http or https address"
    scheme_name, host, port = origin
    shown = f"[{host}]" if ":" in host else host
    suffix = "" if port == _DEFAULT_PORTS[scheme_name] else f":{port}"
    return f"{scheme_name}://{shown}{suffix}"


@dataclass(frozen=True)
class Endpoint:
    """The address of a hub.

    Attributes:
        url: Without credentials and without a slash at the end.
        authorization: Value of the ``Authorization`` header for a user name and password that
            stood in the address; None where there were none.
    """

    url: str
    authorization: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, text: str, source: str = "HF_ENDPOINT") -> Endpoint:
        """Read an address.

        Args:
            text: ``https://host[:port][/path]``, perhaps with ``user:password@``.
            source: Where it comes from, for the message.

        Raises:
            UsageError: It is no such address; the text is not quoted, as it may hold a password.
        """
        url = text.strip().rstrip("/")
        parts = urlsplit(url) if origin_of(url) else None
        if parts is None or parts.query or parts.fragment:
            raise UsageError(
                f"{source} is not the address of a hub: expected `https://HOST` or `http://HOST`",
                hint=f"for example `{DEFAULT_ENDPOINT}`; unset HF_ENDPOINT to use that",
            )
        credentials, has_credentials, host = parts.netloc.rpartition("@")
        bare = parts._replace(netloc=host).geturl()
        return cls(bare, _basic(credentials) if has_credentials else None)

    def owns(self, url: str) -> bool:
        """Return whether a URL has the hub's own origin: scheme, host and port."""
        return origin_of(url) == origin_of(self.url)

    def name_host(self, url: str | None) -> str:
        """Return what a message calls whoever serves a URL: the hub, or another origin."""
        return self.url if not url or self.owns(url) else show_origin(url)

    @property
    def is_exposed(self) -> bool:
        """Whether others can read and change what travels: plain http to another machine."""
        parts = urlsplit(self.url)
        return parts.scheme == "http" and not _is_loopback(parts.hostname or "")


def configured_endpoint() -> Endpoint:
    """Return the hub's address: ``HF_ENDPOINT`` as it is now, else huggingface.co.

    Raises:
        UsageError: ``HF_ENDPOINT`` is not the address of a hub.
    """
    return Endpoint.parse(os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT)


def default_endpoint() -> str:
    """Return the hub's address without credentials; raises as ``configured_endpoint``."""
    return configured_endpoint().url


def _basic(credentials: str) -> str:
    """Return the header for ``user:password`` as it stands in a URL (RFC 7617)."""
    pair = ":".join(unquote(part) for part in credentials.partition(":")[::2])
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _is_loopback(host: str) -> bool:
    """Return whether a host is this machine; a name that only begins like an address is not."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
