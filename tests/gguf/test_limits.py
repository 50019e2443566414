"""Headers larger than any: refused for what they announce, before it is read."""

from __future__ import annotations

import struct
import time
import tracemalloc

import pytest

from gguf_hub.gguf import format
from gguf_hub.gguf.header import read_header
from gguf_hub.gguf.validate import validate_source
from gguf_hub.gguf.validate.template import MOST_CHARACTERS, suspicious
from tests.gguf import raw


class Sparse:
    """A file whose end is zeros that nobody holds."""

    def __init__(self, start: bytes, size_bytes: int) -> None:
        self.start = start
        self.size_bytes = size_bytes
        self.n_read = 0

    def read(self, offset: int, n: int) -> bytes:
        self.n_read += n
        return self.start[offset : offset + n].ljust(n, b"\0")


HEAD = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
TOO_LARGE = {
    "a string": raw.text("general.name") + struct.pack("<IQ", 8, 33 << 20),
    "a template": raw.text("tokenizer.chat_template") + struct.pack("<IQ", 8, 200_000_000),
    "a key": struct.pack("<Q", 33 << 20),
    "numbers": raw.text("a") + struct.pack("<IIQ", 9, 0, 300_000_000),
    "truth values": raw.text("a") + struct.pack("<IIQ", 9, 7, 300_000_000),
    "strings": raw.text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 20_000_000),
    "many strings": raw.text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 3_000_000),
    "one string of an array": raw.text("a") + struct.pack("<IIQQ", 9, 8, 2, 300_000_000),
}


@pytest.mark.parametrize("what", TOO_LARGE)
def test_what_is_too_large_is_refused_and_not_read(what: str) -> None:
    source = Sparse(HEAD + TOO_LARGE[what], 1 << 30)
    tracemalloc.start()
    start = time.process_time()
    report = validate_source(source, "file")
    seconds = time.process_time() - start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [issue.code for issue in report.issues] == ["GGUF-LIMIT"]
    assert report.verdict == "unsupported"
    assert not report.header.is_whole
    assert source.n_read <= 2_000_000
    assert peak < 16e6
    assert seconds < 10


@pytest.mark.parametrize("what", TOO_LARGE)
def test_in_a_file_that_is_too_short_it_is_damage(what: str) -> None:
    source = Sparse(HEAD + TOO_LARGE[what], 20_000_000)
    report = validate_source(source, "file")
    assert report.verdict == "damaged"
    assert report.issues[0].code in ("GGUF-STRING-LENGTH", "GGUF-ARRAY-LENGTH")


def test_counts_over_several_arrays_add_up() -> None:
    n = format.MAX_STRINGS // 2 + 1
    array = struct.pack("<IIQ", 9, 8, n) + bytes(8 * n)
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 2)
    header = read_header(start + raw.text("a") + array + raw.text("b") + array)
    assert [issue.code for issue in header.issues] == ["GGUF-LIMIT"]
    assert len(header.fields["a"].value) == n


def test_more_tensors_than_are_read() -> None:
    n = format.MAX_TENSORS + 1
    start = b"GGUF" + struct.pack("<IQQ", 3, n, 0) + bytes(24 * n)
    assert [issue.code for issue in read_header(start).issues] == ["GGUF-LIMIT"]


@pytest.mark.parametrize(
    "template",
    ["{{" * 200_000, "{%" * 200_000, "{{ 1 }}" * 50_000, "{{%" * 100_000 + "%}", "}}" * 200_000],
)
def test_scanning_a_template_takes_time_that_grows_with_it_alone(template: str) -> None:
    start = time.process_time()
    assert suspicious(template) == ""
    assert time.process_time() - start < 10  # by squares it would take hours


def test_code_between_braces_that_never_close_elsewhere_is_found() -> None:
    assert "Python's machinery" in suspicious("{{ a {% x.__class__ %}")
    assert "Python's machinery" in suspicious("{{% x.__class__ %}")


def test_a_template_too_large_to_scan_is_told() -> None:
    assert (
        suspicious("x" * (MOST_CHARACTERS + 1))
        == "1,048,577 characters, of which none was looked at"
    )
