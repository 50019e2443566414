"""From huggingface_hub's and its HTTP library's exceptions to ours, each with a next step.

Messages never quote a link: signed ones are as good as a password while they last.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from shlex import quote
from typing import Any
from urllib.parse import urlsplit

from gguf_hub.errors import (
    GatedRepoError,
    GgufHubError,
    HubError,
    HubUnreachableError,
    LinkRefusedError,
    OfflineModeError,
    RemoteFileNotFoundError,
    RepoNotFoundError,
    RevisionNotFoundError,
    UsageError,
)
from gguf_hub.hub.client import session
from gguf_hub.hub.client.endpoint import Endpoint
from gguf_hub.hub.client.redaction import redact
from gguf_hub.hub.client.transport import FormatError, RefusedError

# in h11's words; a connection that ended early, or brought more than it said, is worth another try
_BROKEN_HTTP = re.compile(
    r"illegal header line|(?:conflicting|multiple|bad) (?:content-length|transfer-encoding)",
    re.IGNORECASE,
)
# httpx's words; httpx2 leaves a redirect that is not followed alone
_NO_ADDRESS = "in location header"
BUSY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class RequestContext:
    """What a request was about: everything that a message may name."""

    hub: Endpoint
    repo_id: str | None
    revision: str
    path: str | None

    @property
    def endpoint(self) -> str:
        """The hub's address."""
        return self.hub.url

    def host_of(self, sender: Any) -> str:
        """Return the hub, or the host that it sent us to: whoever an error or response is of."""
        return self.hub.name_host(_url_of(sender))

    def hint(self, host: str, own: str | None = None) -> str | None:
        """Return the next step: ``own`` where the hub is to blame, else about the other host."""
        if host == self.endpoint:
            return own
        here = f"`{self.endpoint}` sends us there"
        return f"{here}: a firewall, proxy or login page may be in the way"

    @property
    def has_password(self) -> bool:
        """Whether a user name and password were sent, and so no token."""
        return self.hub.authorization is not None


def _url_of(sender: Any) -> str | None:
    """Return the address that a response, or an exception of the HTTP library or ours, is about."""
    httpx = session.http_library()
    if isinstance(sender, FormatError):
        return sender.url
    if isinstance(sender, httpx.RequestError):
        try:
            return str(sender.request.url)
        except RuntimeError:  # it was raised before there was a request
            return None
    return str(sender.url) if isinstance(sender, httpx.Response) else None


def _quote(exc: BaseException) -> str:
    """Return the words of an exception as a message may have them: no secrets, and short."""
    text = redact(str(exc))
    return text if len(text) <= 200 else f"{text[:197]}..."


@contextmanager
def translate_errors(
    hub: Endpoint,
    repo_id: str | None,
    *,
    revision: str = "main",
    path: str | None = None,
    is_api: bool = True,
) -> Iterator[None]:
    """Turn what huggingface_hub or its HTTP library raises inside into an error of ours.

    Args:
        hub: The hub's address.
        repo_id: What was asked for, as far as there is one.
        revision: Likewise.
        path: Likewise.
        is_api: The answer is parsed inside, so that a parse error is the server's fault.
    """
    context = RequestContext(hub, repo_id, revision, path)
    try:
        yield
    except GgufHubError as own:
        own.message = redact(own.message)  # it may quote the hub, which knows the token
        own.args = (own.message,)
        raise
    except Exception as exc:
        error = _explain(exc, context)
        if error is None and is_api and isinstance(exc, (ValueError, LookupError, TypeError)):
            error = _not_a_hub(exc, context)
        if error is None:
            raise
        # a traceback shows the cause too
        raise error from (exc if redact(str(exc)) == str(exc) else None)


def _explain(exc: Exception, context: RequestContext) -> GgufHubError | None:
    """Return our error for one of theirs, or None for an exception that is not theirs."""
    from huggingface_hub import errors as hf

    httpx = session.http_library()
    if isinstance(exc, hf.OfflineModeIsEnabled):
        return offline(context.endpoint)
    if isinstance(exc, hf.HFValidationError):
        return UsageError(
            f"`{context.repo_id}` is not a repository name: {_quote(exc)}",
            hint="write it as `org/name`",
        )
    if isinstance(exc, FormatError):
        return _not_a_hub(exc, context)
    if isinstance(exc, RefusedError):
        return _refusal(exc.response, context)
    if isinstance(exc, hf.HfHubHTTPError) and exc.response is not None:
        return _by_code(exc.response, context) or _by_status(exc.response, context)
    if isinstance(exc, httpx.ProxyError) and "407" in str(exc):
        return _proxy_refusal(context)
    if isinstance(exc, httpx.RequestError) and (reason := _tls_reason(exc)):
        return _tls_error(exc, reason, context)
    if isinstance(exc, httpx.InvalidURL) or _NO_ADDRESS in str(exc):
        words = "it redirects to no address: expected an http or https address"
        return _not_a_hub(FormatError(words, url=_url_of(exc)), context)
    if isinstance(exc, httpx.RemoteProtocolError) and _BROKEN_HTTP.search(str(exc)):
        broken = FormatError(f"it sends broken HTTP: {exc}", url=_url_of(exc))
        return _not_a_hub(broken, context)
    if isinstance(exc, (httpx.RequestError, httpx.UnsupportedProtocol)):
        return _unreachable(exc, context)
    return None


def _refusal(response: Any, context: RequestContext) -> GgufHubError:
    """Return the error for a response of the hub, or of the host that it sends us to."""
    host = context.host_of(response)
    if response.status_code == 403 and host != context.endpoint and context.path:
        return LinkRefusedError(
            f"`{context.path}`: {host} refuses the signed link (403), which may have expired",
            repo_id=context.repo_id,
            retry_after_s=0.0,
            hint="repeat the command: it asks for a new link; if it persists, a firewall, proxy "
            "or login page may be in the way",
        )
    return _by_code(response, context) or _by_status(response, context)


def offline(endpoint: str) -> OfflineModeError:
    """Return the error for a question that offline mode forbids."""
    return OfflineModeError(
        f"offline mode is on: no requests to `{endpoint}`",
        hint="drop --offline, unset HF_HUB_OFFLINE, or name a file that is on this machine",
    )


def _tls_reason(exc: BaseException) -> str | None:
    """Return why a secure connection could not be made, or None when something else is wrong."""
    import ssl

    cause: BaseException | None = exc
    while cause is not None:
        # a connection that broke half-way is an SSLError too, but worth another try
        if isinstance(cause, ssl.SSLError) and not isinstance(
            cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)
        ):
            return getattr(cause, "verify_message", None) or cause.reason or str(cause)
        cause = cause.__cause__ or cause.__context__
    return None


def _tls_error(exc: Exception, reason: str, context: RequestContext) -> HubError:
    host = context.host_of(exc)
    return HubError(
        f"no secure connection to `{host}`: {reason}",
        repo_id=context.repo_id,
        hint="check the clock, the proxy and HF_ENDPOINT; certificates of your own go into "
        "SSL_CERT_FILE",
    )


def _unreachable(exc: Exception, context: RequestContext) -> HubUnreachableError:
    httpx = session.http_library()
    host = context.host_of(exc)
    reason = _quote(exc) or type(exc).__name__
    is_silent = isinstance(exc, httpx.TimeoutException)
    is_network = isinstance(exc, (httpx.NetworkError, httpx.RemoteProtocolError))
    is_cut = is_network and not isinstance(exc, httpx.ConnectError)
    what = (
        f"`{context.path}`: the connection failed"
        if context.path and is_cut
        else f"cannot reach `{host}`"
    )
    return HubUnreachableError(
        f"{what}: {'no answer in time' if is_silent else reason}",
        repo_id=context.repo_id,
        retry_after_s=0.0 if is_silent or is_cut else None,
        hint=context.hint(
            host,
            "check the network, the proxy and HF_ENDPOINT; `gguf-hub doctor` shows what it sees",
        ),
    )


def _not_a_hub(exc: Exception, context: RequestContext) -> HubError:
    reason = _quote(exc) if isinstance(exc, FormatError) else type(exc).__name__
    host = context.host_of(exc)
    what = "a Hugging Face hub" if host == context.endpoint else "a host of its files"
    return HubError(
        f"`{host}` does not answer as {what} does: {reason}",
        repo_id=context.repo_id,
        hint=context.hint(
            host, "check HF_ENDPOINT, and that no login page of the network is in the way"
        ),
    )


def _by_code(response: Any, context: RequestContext) -> GgufHubError | None:
    """Return the error that the hub's ``X-Error-Code`` names, or None."""
    make: Callable[[Any, RequestContext], GgufHubError] | None = {
        "GatedRepo": _gated_repo,
        "RepoNotFound": _no_repo,
        "RevisionNotFound": _no_revision,
        "EntryNotFound": _no_file,
    }.get(response.headers.get("X-Error-Code"))
    return make(response, context) if make else None


def _gated_repo(response: Any, context: RequestContext) -> GgufHubError:
    page = f"{context.endpoint}/{context.repo_id}"
    wants = "wants a token" if response.status_code == 401 else "is not open to this token"
    if context.has_password:
        wants = "wants a token, and got the user name and password in the hub's address instead"
    return GatedRepoError(
        f"repository `{context.repo_id}` is gated and {wants}",
        repo_id=context.repo_id,
        hint=f"accept its terms at {page}, then {_login(context)}"
        + ("" if context.has_password else f" with one from {context.endpoint}/settings/tokens"),
    )


def _login(context: RequestContext) -> str:
    """Return how to have a token sent."""
    if context.has_password:
        return "take `USER:PASSWORD@` out of HF_ENDPOINT, so that a token can be sent"
    return "log in with `hf auth login`, or pass --token"


def _no_repo(response: Any, context: RequestContext) -> GgufHubError:
    return RepoNotFoundError(
        f"no repository `{context.repo_id}` at `{context.endpoint}`, or it is private",
        repo_id=context.repo_id,
        hint=f"check the spelling; for a private one {_login(context)}",
    )


def _no_revision(response: Any, context: RequestContext) -> GgufHubError:
    return RevisionNotFoundError(
        f"repository `{context.repo_id}` has no revision `{context.revision}`",
        repo_id=context.repo_id,
        hint=f"its branches are listed at {context.endpoint}/{context.repo_id}/tree/main; "
        "without --revision you get `main`",
    )


def _no_file(response: Any, context: RequestContext) -> GgufHubError:
    return RemoteFileNotFoundError(
        f"repository `{context.repo_id}` has no file `{context.path}`",
        repo_id=context.repo_id,
        hint=f"`gguf-hub list {quote(str(context.repo_id))}` lists what it has",
    )


def _by_status(response: Any, context: RequestContext) -> GgufHubError:
    status, repo_id, host = response.status_code, context.repo_id, context.host_of(response)
    if status in BUSY_STATUSES:
        return _busy(response, context)
    if status == 407:
        return _proxy_refusal(context)
    if status == 401 and host == context.endpoint:
        return _unauthorized(context)
    about = f" for `{context.path or repo_id}`" if context.path or repo_id else ""
    return HubError(
        f"`{host}` answers {status}{about}",
        repo_id=repo_id,
        hint=context.hint(host, _address_hint(context) if status == 404 else None),
    )


def _busy(response: Any, context: RequestContext) -> HubUnreachableError:
    status, host = response.status_code, context.host_of(response)
    wait_s = _retry_after_s(response.headers)
    words = "too many requests" if status == 429 else "the server is in trouble"
    later = f" (wait {wait_s:.0f} s)" if wait_s else ""
    is_limit = status == 429 and host == context.endpoint and not context.has_password
    return HubUnreachableError(
        f"`{host}` answers {status}: {words}{later}",
        repo_id=context.repo_id,
        retry_after_s=wait_s,
        hint="repeat the command later"
        + ("; with a token the limit is higher (`hf auth login`)" if is_limit else ""),
    )


def _unauthorized(context: RequestContext) -> GgufHubError:
    """Return the error for a 401 without an error code, which is about the token itself."""
    if context.has_password:
        return RepoNotFoundError(
            f"`{context.endpoint}` refuses the user name and password in its address (401)",
            repo_id=context.repo_id,
            hint="check HF_ENDPOINT",
        )
    needs = f"or `{context.repo_id}` needs one" if context.repo_id else "or needs one"
    return RepoNotFoundError(
        f"`{context.endpoint}` refuses the token, {needs} (401)",
        repo_id=context.repo_id,
        hint="log in again with `hf auth login`, or pass --token",
    )


def _address_hint(context: RequestContext) -> str:
    path = urlsplit(context.endpoint).path
    what = f"its path `{path}` leads to no hub" if path else "there may be no hub"
    return f"check HF_ENDPOINT: {what}"


def _proxy_refusal(context: RequestContext) -> HubError:
    return HubError(
        "the proxy needs a user name and password, or refuses those that it got (407)",
        repo_id=context.repo_id,
        hint="set HTTP_PROXY and HTTPS_PROXY to `http://USER:PASSWORD@HOST:PORT`",
    )


def _retry_after_s(headers: Any) -> float:
    """Return the seconds that a busy server asks for; 0 when it does not say.

    Source: RFC 9110 section 10.2.3 (Retry-After) and the hub's ``RateLimit: "api";r=0;t=55``.
    """
    fields = dict(
        part.strip().partition("=")[::2] for part in headers.get("RateLimit", "").split(";")
    )
    rate_s = _seconds(fields.get("t", "")) if fields.get("r") == "0" else 0.0
    asked = headers.get("Retry-After", "")
    return rate_s or _seconds(asked) or _seconds_until(asked)


def _seconds(text: str) -> float:
    """Return a header's whole number of seconds, thirty years at most; 0 for anything else."""
    return min(float(text), 1e9) if re.fullmatch("[0-9]+", text) else 0.0


def _seconds_until(text: str) -> float:
    """Return the seconds until a date of HTTP; 0 for anything else."""
    try:
        wait_s = parsedate_to_datetime(text).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError, OSError):
        return 0.0
    return min(max(wait_s, 0.0), 1e9)
