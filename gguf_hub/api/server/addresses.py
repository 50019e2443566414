"""Allowed values of the ``Host`` and ``Origin`` headers.

A web page of any site can send requests to this machine, but it cannot forge ``Host``, ``Origin``
and ``Sec-Fetch-Site``, which the browser sets. Other programs send no ``Origin``.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from gguf_hub.errors import UsageError

ANY = "*"
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\s\[\]:@/?#\\]+))(?::\d{0,5})?")


def host_name(header: str) -> str | None:
    """Return the name or address in a ``Host`` header without its port, or None if malformed."""
    match = _HOST.fullmatch(header)
    if match is None:
        return None
    name = (match["v6"] or match["name"]).lower().removesuffix(".")
    address = _address(name)
    if address is None:
        return None if match["v6"] else name
    return str(address)


def is_loopback(host: str) -> bool:
    """Return whether a name or an address can be reached from this machine only."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


class AllowedHosts:
    """Host names that requests may be addressed to: the given ones and loopback.

    This prevents DNS rebinding: a page of ``evil.example`` can make that name resolve to this
    machine, and then has the same origin as the server.

    Args:
        names: Names and addresses; ``*`` for any.

    Raises:
        UsageError: One is neither a name nor an address.
    """

    def __init__(self, names: Iterable[str]) -> None:
        names = list(names)
        self._is_any = ANY in names
        self._names = frozenset(_check_host(name) for name in names if name != ANY)

    def allows(self, hosts: Sequence[str]) -> bool:
        """Return whether a request with these ``Host`` headers is allowed.

        One without is: every browser sends it, and HTTP/1.0 does not require it.
        """
        if self._is_any or not hosts:
            return True
        name = host_name(hosts[0])
        return name is not None and (name in self._names or is_loopback(name))


class AllowedOrigins:
    """Origins whose pages may send requests that do work: the server's own and the given ones.

    Args:
        origins: As ``https://example.org``; ``*`` for any.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)

    def allows(self, origins: Sequence[str], site: str | None, host: str | None) -> bool:
        """Return whether a request may do work.

        Args:
            origins: Its ``Origin`` headers; none if it does not come from a page.
            site: Its ``Sec-Fetch-Site`` header, which current browsers send.
            host: Its ``Host`` header.
        """
        if ANY in self._origins:
            return True
        if origins and all(origin.lower() in self._origins for origin in origins):
            return True
        if site is not None:
            return site in ("same-origin", "none")
        return all(_is_own(origin, host) for origin in origins)


def _is_own(origin: str, host: str | None) -> bool:
    """Return whether an origin is the server's, whatever its scheme: a proxy may terminate TLS."""
    try:
        netloc = urlsplit(origin).netloc
    except ValueError:
        return False
    return bool(netloc) and host is not None and netloc.lower() == host.lower()


def _check_host(text: str) -> str:
    name = host_name(f"[{text}]") if ":" in text and _address(text) else host_name(text)
    if name is None:
        raise UsageError(
            f"host `{text}`: expected a host name or an address, such as `models.example.org`",
            hint="leave out the scheme and the path",
        )
    return name


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
