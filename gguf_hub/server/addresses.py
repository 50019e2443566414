"""Under which names a server may be asked, and by pages of which origins.

A web page of any site can send requests to this machine. What it cannot do is lie about ``Host``,
``Origin`` and ``Sec-Fetch-Site``: the browser writes them. Other programs write no ``Origin``.
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
    """Tell whether only this machine can reach a name or an address."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


class HostRule:
    """Names by which a server may be asked: those given, and all that mean this machine.

    Against DNS rebinding: a page of ``evil.example`` can make that name lead to this machine, and
    is then of the same origin as the server.

    Args:
        names: Names and addresses; ``*`` for any.

    Raises:
        UsageError: One is neither a name nor an address.
    """

    def __init__(self, names: Iterable[str]) -> None:
        names = list(names)
        self._is_any = ANY in names
        self._names = frozenset(_checked_host(name) for name in names if name != ANY)

    def admits(self, hosts: Sequence[str]) -> bool:
        """Tell whether a request with these ``Host`` headers may ask; without one it may.

        No browser leaves it out, and HTTP/1.0 need not have it.
        """
        if self._is_any or not hosts:
            return True
        name = host_name(hosts[0])
        return name is not None and (name in self._names or is_loopback(name))


class OriginRule:
    """Origins whose pages may send requests that start work: the server's own, and those given.

    Args:
        origins: As ``https://example.org``; ``*`` for any.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)

    def admits(self, origins: Sequence[str], site: str | None, host: str | None) -> bool:
        """Tell whether a request may start work.

        Args:
            origins: Its ``Origin`` headers; none where no page sends it.
            site: ``Sec-Fetch-Site``, which newer browsers send.
            host: ``Host``.
        """
        if ANY in self._origins:
            return True
        if origins and all(origin.lower() in self._origins for origin in origins):
            return True
        if site is not None:
            return site in ("same-origin", "none")
        return all(_is_own(origin, host) for origin in origins)


def _is_own(origin: str, host: str | None) -> bool:
    """Tell whether an origin is the server's; a proxy may have taken TLS off."""
    try:
        there = urlsplit(origin).netloc
    except ValueError:
        return False
    return bool(there) and host is not None and there.lower() == host.lower()


def _checked_host(text: str) -> str:
    name = host_name(f"[{text}]") if ":" in text and _address(text) else host_name(text)
    if name is None:
        raise UsageError(
            f"host `{text}`: expected a name or an address, as in `models.example.org`",
            hint="leave out scheme and path",
        )
    return name


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
