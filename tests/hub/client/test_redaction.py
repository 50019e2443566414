"""What libraries log holds no secret, whatever logger, level or form it comes in."""

from __future__ import annotations

import logging
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.hub.client.redaction import redact, redact_library_logs, redact_log, remember

SECRETS = st.text(string.ascii_letters + string.digits + "-._~%", min_size=5, max_size=40)
FORMS = [
    "GET https://user:{}@hub.example/api/models",
    "GET https://{}@hub.example/org/name",
    "to https://cdn.example/x?X-Amz-Date=1&X-Amz-Signature={}&x=1 and on",
    "[(b'Date', b'now'), (b'Location', b'https://cdn.example/x?sig={}'), (b'Age', b'1')]",
    "[(b'Location', b'/x?sig={}')]",
    "[(b'Authorization', b'Bearer {}'), (b'Set-Cookie', b'id={}; Path=/')]",
    "curl -X GET -H 'authorization: Basic {}' -H 'cookie: a={}' https://hub.example/",
    "{{'proxy-authorization': 'Basic {}'}}",
    "Authorization: Bearer {}",
]


@given(SECRETS, st.sampled_from(FORMS))
def test_no_form_of_a_secret_is_logged(secret: str, form: str) -> None:
    text = redact_log(form.format(*[f"{secret}MARK"] * form.count("{}")))
    assert "MARK" not in text
    assert "hub.example" in text or "hub.example" not in form
    assert "cdn.example/x" in text or "cdn.example" not in form


def test_what_was_sent_is_redacted_in_any_case() -> None:
    remember("Unlikely-Pass")
    remember("abc")
    assert redact("UNLIKELY-pass is no host, abc is") == "[secret] is no host, abc is"


@pytest.mark.parametrize(
    "name", ["huggingface_hub", "huggingface_hub.utils.new", "httpx", "httpx2", "httpcore2.http11"]
)
def test_every_logger_of_the_libraries_is_cleaned(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    redact_library_logs()
    caplog.set_level(logging.DEBUG, logger=name)
    try:
        raise OSError("no https://user:word@hub.example")
    except OSError:
        logging.getLogger(name).debug("%s of %r", "GET", "http://a:word@b/?q=word", exc_info=True)
    assert caplog.messages == ["GET of 'http://b/' (OSError)"]
    assert "Traceback" not in caplog.text


def test_loggers_of_others_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    redact_library_logs()
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpxample").debug("%s", "a?b=c")
    assert caplog.messages == ["a?b=c"]
    assert logging.makeLogRecord({"msg": "x"}).getMessage() == "x"
