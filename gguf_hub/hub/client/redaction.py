"""No secret in what is shown or logged: tokens, passwords in addresses, signatures of links.

Libraries log what they send at their own levels (``HF_DEBUG``, ``HF_HUB_VERBOSITY``, or whatever a
program sets), each under loggers of its own: records are cleaned as they are made.
"""

from __future__ import annotations

import functools
import logging
import re
from typing import Any

_LEAST_SECRET = 4  # what is shorter stands in any text
_SHOWN = "[secret]"
_TOKEN = re.compile(r"hf_\w{8,}")
_CREDENTIALS = re.compile(r"(?<=://)[^\s/?#'\"<>]*@")
_QUERY = re.compile(r"\?[^\s'\"<>]+")
# as `name: value`, or as a pair of texts or bytes
_HEADER = re.compile(
    r"((?:authorization|cookie)['\"]?\s*[:,=]\s*)(?:b?'[^']*'|b?\"[^\"]*\"|[^\s'\"][^'\"\r\n]*)",
    re.IGNORECASE,
)
# huggingface_hub and what carries its requests; some are named after their major version
_LIBRARY = re.compile(r"(?:huggingface_hub|hf_xet|httpx|httpcore|h11|h2|hpack)\d*(?:\.|$)")
_sent: set[str] = set()


def remember(secret: str) -> None:
    """Have a token or password that is sent redacted from now on."""
    if len(secret) >= _LEAST_SECRET:
        _sent.add(secret)


def redact(text: str) -> str:
    """Return the words of a library or a server without tokens and passwords."""
    for secret in tuple(_sent):
        # whatever its case: hosts are shown in small letters
        text = re.sub(re.escape(secret), _SHOWN, text, flags=re.IGNORECASE)
    return _TOKEN.sub(_SHOWN, text)


def without_credentials(text: str) -> str:
    """Return text in which no address has a user name or password."""
    return _CREDENTIALS.sub("", text)


def redact_log(text: str) -> str:
    """Return a library's log message without secrets, and without the queries of addresses."""
    text = _HEADER.sub(rf"\1{_SHOWN}", without_credentials(text))
    return redact(_QUERY.sub("", text))


@functools.cache
def redact_library_logs() -> None:
    """Clean the log records of the HTTP libraries, of all their loggers and levels.

    Not by filters: one on a logger does not see what its children log, nor loggers made later.
    """
    make_record = logging.getLogRecordFactory()

    def make_clean(name: str | None, *args: Any, **kwargs: Any) -> logging.LogRecord:
        """Take secrets out of records of the libraries that send requests."""
        record = make_record(name, *args, **kwargs)
        return _clean(record) if name and _LIBRARY.match(name) else record

    logging.setLogRecordFactory(make_clean)


def _clean(record: logging.LogRecord) -> logging.LogRecord:
    kind = record.exc_info[0] if record.exc_info else None
    text = redact_log(record.getMessage())
    # a traceback quotes the address that was asked
    record.msg = f"{text} ({kind.__name__})" if kind else text
    record.args, record.exc_info = None, None
    return record
