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

from gguf_hub.errors import (
    GatedRepoError,
    GgufHubError,
    HubError,
    HubUnreachableError,
    LinkRefusedError,
    RemoteFileNotFoundError,
    RepoNotFoundError,
    RevisionNotFoundError,
    UsageError,
)
from gguf_hub.hub.client.endpoint import origin_of
from gguf_hub.hub.client.transport import FormatError, RefusedError

# in h11's words; a connection that ended early, or brought more than it said, is worth another try
_BROKEN_HTTP = re.compile(
    r"illegal header line|(?:conflicting|multiple|bad) (?:content-length|transfer-encoding)",
    re.IGNORECASE,
)
_LEAST_SECRET = 4  # what is shorter stands in any text
_TOKEN = re.compile(r"hf_\w{8,}")
BUSY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class RequestContext:
    """What a request was about: everything that a message may name.

    ``secrets`` are what it must not: tokens and passwords that were sent.
    """

    endpoint: str
    repo_id: str | None
    revision: str
    path: str | None
    secrets: Callable[[], tuple[str, ...]] = tuple

    def redact(self, text: str) -> str:
        """Return the words of a library or a server without secrets."""
        for secret in self.secrets():
            if len(secret) >= _LEAST_SECRET:
                # whatever its case: hosts are shown in small letters
                text = re.sub(re.escape(secret), "[secret]", text, flags=re.IGNORECASE)
        return _TOKEN.sub("[secret]", text)

    def quote_exception(self, exc: BaseException) -> str:
        """Return the words of an exception as a message may have them: no secrets, and short."""
        text = self.redact(str(exc))
        return text if len(text) <= 200 else f"{text[:197]}..."


@contextmanager
def translate_errors(
    endpoint: str,
    repo_id: str | None,
    *,
    revision: str = "main",
    path: str | None = None,
    is_api: bool = True,
    secrets: Callable[[], tuple[str, ...]] = tuple,
) -> Iterator[None]:
    """Turn what huggingface_hub or its HTTP library raises inside into an error of ours.

    Args:
        endpoint: The hub's address.
        repo_id: What was asked for, as far as there is one.
        revision: Likewise.
        path: Likewise.
        is_api: The answer is parsed inside, so that a parse error is the server's fault.
        secrets: What was sent and must not be shown.
    """
    context = RequestContext(endpoint, repo_id, revision, path, secrets)
    try:
        yield
    except GgufHubError as own:
        own.message = context.redact(own.message)  # it may quote the hub, which knows the token
        own.args = (own.message,)
        raise
    except Exception as exc:
        error = _explain(exc, context)
        if error is None and is_api and isinstance(exc, (ValueError, LookupError, TypeError)):
            error = _not_a_hub(exc, context)
        if error is None:
            raise
        # a traceback shows the cause too
        raise error from (exc if context.redact(str(exc)) == str(exc) else None)


def _explain(exc: Exception, context: RequestContext) -> GgufHubError | None:
    """Return our error for one of theirs, or None for an exception that is not theirs."""
    from huggingface_hub import errors as hf
    from huggingface_hub.utils import httpx

    if isinstance(exc, hf.OfflineModeIsEnabled):
        return offline(context.endpoint)
    if isinstance(exc, hf.HFValidationError):
        return UsageError(
            f"`{context.repo_id}` is not a repository name: {context.quote_exception(exc)}",
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
        return _tls_error(reason, context)
    if isinstance(exc, httpx.RemoteProtocolError) and _BROKEN_HTTP.search(str(exc)):
        return _not_a_hub(FormatError(f"it sends broken HTTP: {exc}"), context)
    if isinstance(exc, (httpx.RequestError, httpx.InvalidURL, httpx.UnsupportedProtocol)):
        return _unreachable(exc, context)
    return None


def _refusal(response: Any, context: RequestContext) -> GgufHubError:
    """Return the error for a response of the hub, or of the host that it sends us to."""
    is_signed = origin_of(str(response.url)) != origin_of(context.endpoint)
    if response.status_code == 403 and is_signed and context.path:
        return LinkRefusedError(
            f"`{context.path}`: the file host refuses the signed link (403), which may have "
            "expired",
            repo_id=context.repo_id,
            retry_after_s=0.0,
            hint="repeat the command: it asks for a new link",
        )
    return _by_code(response, context) or _by_status(response, context)


def offline(endpoint: str) -> HubUnreachableError:
    """Return the error for a question that offline mode forbids."""
    return HubUnreachableError(
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


def _tls_error(reason: str, context: RequestContext) -> HubError:
    return HubError(
        f"no secure connection for `{context.path or context.endpoint}`: {reason}",
        repo_id=context.repo_id,
        hint="check the clock, the proxy and HF_ENDPOINT; certificates of your own go into "
        "SSL_CERT_FILE",
    )


def _unreachable(exc: Exception, context: RequestContext) -> HubUnreachableError:
    from huggingface_hub.utils import httpx

    reason = context.quote_exception(exc) or type(exc).__name__
    is_silent = isinstance(exc, httpx.TimeoutException)
    is_network = isinstance(exc, (httpx.NetworkError, httpx.RemoteProtocolError))
    is_cut = is_network and not isinstance(exc, httpx.ConnectError)
    what = (
        f"`{context.path}`: the connection failed"
        if context.path and is_cut
        else (f"cannot reach `{context.endpoint}`")
    )
    return HubUnreachableError(
        f"{what}: {'no answer in time' if is_silent else reason}",
        repo_id=context.repo_id,
        retry_after_s=0.0 if is_silent or is_cut else None,
        hint="check the network, the proxy and HF_ENDPOINT; `gguf-hub doctor` shows what it sees",
    )


def _not_a_hub(exc: Exception, context: RequestContext) -> HubError:
    reason = context.quote_exception(exc) if isinstance(exc, FormatError) else type(exc).__name__
    return HubError(
        f"`{context.endpoint}` does not answer as a Hugging Face hub does: {reason}",
        repo_id=context.repo_id,
        hint="check HF_ENDPOINT, and that no login page of the network is in the way",
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
    return GatedRepoError(
        f"repository `{context.repo_id}` is gated and {wants}",
        repo_id=context.repo_id,
        hint=f"accept its terms at {page}, then log in with `hf auth login`, "
        f"or pass --token with one from {context.endpoint}/settings/tokens",
    )


def _no_repo(response: Any, context: RequestContext) -> GgufHubError:
    return RepoNotFoundError(
        f"no repository `{context.repo_id}` at `{context.endpoint}`, or it is private",
        repo_id=context.repo_id,
        hint="check the spelling; for a private one log in with `hf auth login` or pass --token",
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
    status, repo_id = response.status_code, context.repo_id
    if status in BUSY_STATUSES:
        wait_s = _retry_after_s(response.headers)
        words = "too many requests" if status == 429 else "the server is in trouble"
        later = f" (wait {wait_s:.0f} s)" if wait_s else ""
        return HubUnreachableError(
            f"`{context.endpoint}` answers {status}: {words}{later}",
            repo_id=repo_id,
            retry_after_s=wait_s,
            hint="repeat the command later"
            + ("; with a token the limit is higher (`hf auth login`)" if status == 429 else ""),
        )
    if status == 407:
        return _proxy_refusal(context)
    if status == 401:
        # without an error code this is about the token itself
        return RepoNotFoundError(
            f"`{context.endpoint}` refuses the token, or `{repo_id}` needs one (401)",
            repo_id=repo_id,
            hint="log in again with `hf auth login`, or pass --token",
        )
    about = f" for `{context.path or repo_id}`" if context.path or repo_id else ""
    return HubError(f"`{context.endpoint}` answers {status}{about}", repo_id=repo_id)


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
