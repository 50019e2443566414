"""Every request to a hub leaves here, and every answer is read within bounds.

The one place that decides who is given credentials: the hub's own origin, on every hop of every
request, and nobody else.
"""

from __future__ import annotations

import json
import platform
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin

from gguf_hub import __version__
from gguf_hub.errors import GgufHubError, HubError
from gguf_hub.hub.client import session
from gguf_hub.hub.client.endpoint import Endpoint, origin_of, show_origin
from gguf_hub.hub.client.redaction import remember
from gguf_hub.hub.client.token import find_token
from gguf_hub.units import MIB, format_size

MAX_REDIRECTS = 20
MAX_JSON_BYTES = 32 * MIB
"""One page of a listing; a thousand files take a quarter of a megabyte."""
ANSWER_S = 45.0
"""All pages of one answer together; a page of a thousand files takes less than one."""
UNSENT_TOKEN = (
    "the user name and password in the hub's address are sent instead of the token: a request "
    "can carry only one of them"
)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DRAIN_BYTES, _DRAIN_S = 65_536, 2.0
_CHUNK_BYTES = 1 * MIB


class FormatError(ValueError):
    """An answer that is not what a hub sends; the text is fit to be shown.

    Args:
        message: What is wrong with it.
        url: Whose answer it is, where that may be another host's than the hub's.
    """

    def __init__(self, message: str, *, url: str | None = None) -> None:
        super().__init__(message)
        self.url = url


class RefusedError(Exception):
    """A response with a status that is no answer."""

    def __init__(self, response: Any) -> None:
        super().__init__(f"status {response.status_code}")
        self.response = response


class TimeBudget:
    """How long all pages of one answer may take together; waits for a busy hub do not count.

    Args:
        seconds: The time.
    """

    def __init__(self, seconds: float = ANSWER_S) -> None:
        self._seconds = self._left_s = seconds
        self._since = 0.0

    @contextmanager
    def count_time(self) -> Iterator[None]:
        """Count the time of the ``with`` block."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._left_s -= time.monotonic() - self._since

    def check(self) -> None:
        """Raise ``FormatError`` when the time is over."""
        if time.monotonic() - self._since > self._left_s:
            raise FormatError(f"its answer took more than {self._seconds:g} s")


class Transport:
    """Requests to one hub, and to wherever it sends us.

    Args:
        endpoint: The hub.
        token: Access token; what the environment and ``hf auth login`` have when None.
        timeout_s: How long a server may be silent.
        note: Told once when the token is not sent.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        token: str | None,
        timeout_s: float,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.endpoint = endpoint
        self.timeout_s = timeout_s
        self._token = token
        self._note = note
        self._noting, self._has_noted = threading.Lock(), False

    def headers_for(self, url: str) -> dict[str, str]:
        """Return the headers of a request: credentials only for the hub's own origin.

        Raises:
            UsageError: The token cannot be one.
        """
        hf = session.huggingface_hub()
        headers = {"user-agent": _user_agent(hf)}
        authorization = self._authorization(hf) if self.endpoint.owns(url) else None
        return headers | ({"authorization": authorization} if authorization else {})

    def has_token(self) -> bool:
        """Return whether there is a token; raises as ``headers_for``."""
        return find_token(self._token, session.huggingface_hub()) is not None

    def has_unsent_token(self) -> bool:
        """Return whether there is a token that the password in the hub's address displaces."""
        if self.endpoint.authorization is None:
            return False
        try:
            return self.has_token()
        except GgufHubError:
            return False  # it would be of no use

    @contextmanager
    def open(
        self,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        *,
        timeout_s: float | None = None,
        follow: Callable[[str], bool] = lambda url: True,
        expected: tuple[int, ...] | None = (200,),
    ) -> Iterator[Any]:
        """Send a request and follow redirects; the connection closes with the ``with`` block.

        Args:
            method: ``GET`` or ``HEAD``.
            url: Where to.
            headers: More headers; no credentials, these are added where they belong.
            timeout_s: How long the server may be silent, where it is not the usual time.
            follow: Whether to go where a redirect leads; its response is the answer otherwise.
            expected: Which statuses are answers; all of them when None.

        Raises:
            RefusedError: The status is another one.
            FormatError: A redirect leads to what is no http(s) address.
            HubError: Redirects lead in circles.
        """
        for _ in range(MAX_REDIRECTS + 1):
            response = self._send(method, url, headers or {}, timeout_s or self.timeout_s)
            try:
                target = redirect_target(response)
                if target is None and expected and response.status_code not in expected:
                    raise RefusedError(response)
                if target is None or not follow(target):
                    yield response
                    return
                _drain(response)
            finally:
                response.close()
            url = target
        raise HubError(
            f"`{self.endpoint.name_host(url)}` redirects in circles: more than {MAX_REDIRECTS} "
            "times",
            hint="check HF_ENDPOINT and the proxy",
        )

    def read_json(self, response: Any, budget: TimeBudget) -> Any:
        """Return the JSON of a response.

        Raises:
            FormatError: It is none, it is too long, or it takes too long.
        """
        body = bytearray()
        for chunk in decode_body(response):
            body += chunk
            budget.check()
            if len(body) > MAX_JSON_BYTES:
                raise FormatError(f"its answer is longer than {format_size(MAX_JSON_BYTES)}")
        try:
            return json.loads(body)
        except RecursionError:
            raise FormatError("its JSON is nested too deeply") from None
        except ValueError:
            # not chained: the exception holds the whole text
            raise FormatError("its answer is not JSON") from None

    def _send(self, method: str, url: str, headers: dict[str, str], timeout_s: float) -> Any:
        client = session.client()
        request = client.build_request(method, url, headers=headers, timeout=timeout_s)
        # by the URL that is really asked: the client may read one otherwise than we do
        request.headers.update(self.headers_for(str(request.url)))
        return client.send(request, stream=True, follow_redirects=False)

    def _authorization(self, hf: Any) -> str | None:
        authorization = self.endpoint.authorization
        if authorization:
            self._note_unsent_token()
        elif token := find_token(self._token, hf):
            authorization = f"Bearer {token}"
        if authorization:
            remember(authorization.partition(" ")[2])
        return authorization

    def _note_unsent_token(self) -> None:
        with self._noting:
            if not self._has_noted and self.has_unsent_token():
                self._note(UNSENT_TOKEN)
            self._has_noted = True


def _user_agent(hf: Any) -> str:
    """Return what this program calls itself.

    huggingface_hub's own text asks the hub for the names of programs that may have called it: one
    more request, whose failure nobody is told.
    """
    origin = hf.constants.HF_HUB_USER_AGENT_ORIGIN
    parts = [f"gguf-hub/{__version__}", f"hf_hub/{hf.__version__}"]
    parts += [f"python/{platform.python_version()}", *([f"origin/{origin}"] if origin else [])]
    return "; ".join(parts)


def redirect_target(response: Any) -> str | None:
    """Return the URL that a redirect leads to; None for any other response.

    Raises:
        FormatError: It is no http(s) address.
    """
    location = response.headers.get("location")
    if response.status_code not in _REDIRECTS or not location:
        return None
    try:
        target: str = urljoin(str(response.url), location)
    except ValueError:
        target = ""
    if origin_of(target) is None:
        raise FormatError(
            f"it redirects to {show_origin(target or location)}, expected an http or https address",
            url=str(response.url),
        )
    return target


def decode_body(response: Any) -> Iterator[bytes]:
    """Yield the body of a response, a megabyte at most at a time, whatever it unpacks to.

    Raises:
        FormatError: Its encoding was not requested, or is invalid.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        # chunks as they arrive: with a size of their own, what a cut connection brought is lost
        yield from response.iter_raw()
    elif encoding in ("gzip", "x-gzip"):
        yield from _gunzip(response)
    else:
        raise FormatError(
            f"its answer has the encoding {encoding[:20]!r}, which was not requested",
            url=str(response.url),
        )


def _gunzip(response: Any) -> Iterator[bytes]:
    unpack = zlib.decompressobj(wbits=31)
    try:
        for packed in response.iter_raw():
            while packed:
                yield unpack.decompress(packed, _CHUNK_BYTES)
                packed = unpack.unconsumed_tail
        yield unpack.flush()
    except zlib.error:
        raise FormatError("its answer is not valid gzip", url=str(response.url)) from None


def _drain(response: Any) -> None:
    """Read the body of a redirect, if it is short, so that the connection can be used again."""
    n, until_s = 0, time.monotonic() + _DRAIN_S
    for chunk in response.iter_raw():
        n += len(chunk)
        if n > _DRAIN_BYTES or time.monotonic() > until_s:
            return
