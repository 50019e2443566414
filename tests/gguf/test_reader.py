from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest

from gguf_hub.errors import GgufError, UnsupportedGgufError
from gguf_hub.gguf.format import MAX_HEADER_BYTES, Field, TensorSpec, ValueType
from gguf_hub.gguf.header import read_header
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.source import FIRST_BYTES, SECOND_END, RangeSource
from gguf_hub.gguf.strings import StringArray
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.writer import write_gguf
from tests.gguf.raw import gguf, string, tensor, text
from tests.synth import TINY, Shape, write_mixtral

FIELDS = {
    "general.architecture": Field.of("llama"),
    "a.u8": Field(ValueType.UINT8, 255),
    "a.i8": Field(ValueType.INT8, -128),
    "a.u16": Field(ValueType.UINT16, 65535),
    "a.i16": Field(ValueType.INT16, -32768),
    "a.u32": Field(ValueType.UINT32, 2**32 - 1),
    "a.i32": Field(ValueType.INT32, -(2**31)),
    "a.f32": Field(ValueType.FLOAT32, 0.5),
    "a.bool": Field.of(True),
    "a.u64": Field(ValueType.UINT64, 2**64 - 1),
    "a.i64": Field(ValueType.INT64, -(2**63)),
    "a.f64": Field(ValueType.FLOAT64, 1e300),
    "a.nan": Field.of(float("nan")),
    "a.text": Field.of("hé\N{LOWER ONE EIGHTH BLOCK}"),
    "a.words": Field.of(["", "a", "\N{LLAMA}"]),
    "a.numbers": Field.of(np.array([1, -2, 3], np.int16)),
    "a.floats": Field.of(np.array([1.5, np.nan], np.float32)),
    "a.flags": Field.of(np.array([True, False, True])),
    "a.none": Field(ValueType.ARRAY, np.array([], np.uint8), ValueType.UINT8),
}
ROWS = np.arange(96, dtype=np.float32).reshape(3, 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def write(path: Path, **options: object) -> Path:
    spec = TensorSpec("rows", (32, 3), QuantType.F32)
    one = TensorSpec("one", (), QuantType.F32)
    write_gguf(path, FIELDS, [(one, np.float32(7).tobytes()), (spec, ROWS)], **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("byte_order", ["little", "big"])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_all_versions_and_byte_orders_hold_the_same(path: Path, version: int, byte_order) -> None:
    file = GgufFile.open(write(path, version=version, byte_order=byte_order))
    assert (file.version, file.byte_order) == (version, byte_order)
    assert dict(file.fields) == FIELDS
    assert list(file.tensors) == ["one", "rows"]
    assert file.tensor_bytes("rows").tobytes() == ROWS.tobytes()


def test_metadata_is_plain_python(path: Path) -> None:
    metadata = GgufFile.open(write(path)).metadata
    assert metadata["a.words"] == ["", "a", "\N{LLAMA}"]
    assert type(metadata["a.words"]) is list
    assert type(metadata["a.u32"]) is int
    assert metadata["a.bool"] is True
    assert metadata["a.flags"].dtype == np.bool_
    assert metadata["a.numbers"].dtype == np.int16
    assert metadata["a.numbers"].flags.aligned
    assert "a.missing" not in metadata
    assert metadata.get("a.missing", 3) == 3
    assert len(metadata) == len(list(metadata)) == len(FIELDS)


def test_tensors_are_views_that_nobody_can_write_to(path: Path) -> None:
    with GgufFile.open(write(path)) as file:
        info = file.tensors["rows"]
        raw = file.tensor_bytes("rows")
        assert np.shares_memory(raw, file.data)
        with pytest.raises(ValueError, match="read-only"):
            raw[0] = 1
        with pytest.raises(ValueError, match="read-only"):
            file.metadata["a.numbers"][0] = 1
    assert (info.shape, info.size_bytes, info.n_elements) == ((32, 3), 384, 96)
    assert file.data_offset % file.alignment == 0
    assert raw.view(np.float32)[33] == 33, "a view outlives the file object"


PUBLISHED = {
    "Q2_K": 15_643_254_784, "Q3_K_M": 20_362_575_872, "Q4_0": 26_440_753_152,
    "Q4_K_M": 26_440_753_152, "Q5_0": 32_228_499_456, "Q5_K_M": 32_228_499_456,
    "Q6_K": 38_377_979_904, "Q8_0": 49_623_482_368,
}  # fmt: skip


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_header_of_a_full_mixtral(path: Path, recipe: str) -> None:
    """Tensor counts and bytes of the real files: they are published to the byte."""
    file = GgufFile.open(write_mixtral(path, Shape(), recipe=recipe, sparse=True))
    assert len(file.tensors) == 995
    assert sum(info.size_bytes for info in file.tensors.values()) == PUBLISHED[recipe]
    assert len(file.metadata["tokenizer.ggml.tokens"]) == 32000


def test_real_files_round_trip_byte_for_byte(data: Path, tmp_path: Path) -> None:
    for path in sorted((data / "models").rglob("*.gguf")):
        file = GgufFile.open(path)
        copy = tmp_path / path.name
        write_gguf(copy, file.fields, [(t, file.tensor_bytes(n)) for n, t in file.tensors.items()])
        assert copy.read_bytes() == path.read_bytes(), path.name


class Ranges:
    """A server's file: counts what is asked of it."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.asked: list[tuple[int, int]] = []

    @property
    def size_bytes(self) -> int:
        return len(self.raw)

    def read(self, offset: int, n: int) -> bytes:
        assert offset + n <= len(self.raw)
        self.asked.append((offset, n))
        return self.raw[offset : offset + n]


def with_long_header(path: Path, n: int) -> bytes:
    words = [f"word {i}" for i in range(n)]
    write_gguf(path, {**FIELDS, "a.long": Field.of(words)}, [])
    return path.read_bytes() + bytes(3 << 20)


@pytest.mark.parametrize(("n", "requests"), [(10, 1), (70_000, 2), (150_000, 3)])
def test_a_header_comes_through_few_ranges(path: Path, n: int, requests: int) -> None:
    raw = with_long_header(path, n)
    ranges = Ranges(raw)
    assert isinstance(ranges, RangeSource)
    header = read_header(ranges)
    assert header.is_whole
    assert header.fields["a.long"].value[-1] == f"word {n - 1}"
    assert dict(header.fields) == dict(read_header(raw).fields)
    assert len(ranges.asked) == requests
    assert [end for _, end in ranges.asked[:2]] == [FIRST_BYTES, SECOND_END - FIRST_BYTES][
        :requests
    ]


class Endless:
    """A file on a hub whose header never ends: the start, then a pattern for a terabyte."""

    size_bytes = 10**12

    def __init__(self, start: bytes, pattern: bytes) -> None:
        self.start, self.pattern = start, pattern
        self.n_read = 0

    def read(self, offset: int, n: int) -> bytes:
        self.n_read += n
        at = max(offset - len(self.start), 0) % len(self.pattern)
        more = self.pattern[at:] + self.pattern * (n // len(self.pattern) + 1)
        return (self.start[offset:] + more if offset < len(self.start) else more)[:n]


WORD = struct.pack("<Q", 65_528) + bytes(65_528)


@pytest.mark.parametrize(
    ("start", "pattern"),
    [
        (gguf(n_kv=1)[:24] + text("a") + struct.pack("<IQ", 8, 190_000_000), bytes(1 << 20)),
        (gguf(n_kv=1)[:24] + text("a") + struct.pack("<IIQ", 9, 8, 1 << 20), WORD),
        (gguf(n_kv=1)[:24] + text("a") + struct.pack("<IIQ", 9, 4, 190_000_000), bytes(1 << 20)),
        (gguf(n_kv=1 << 16)[:24], string("k", bytes(65_536))),
        (gguf(n_tensors=1 << 12)[:24], tensor(bytes(65_536))),
    ],
    ids=["string", "strings", "numbers", "keys", "tensors"],
)
def test_a_remote_header_without_end_is_left(start: bytes, pattern: bytes) -> None:
    source = Endless(start, pattern)
    header = read_header(source)
    assert not header.is_whole
    (limit,) = (issue for issue in header.issues if issue.code == "GGUF-LIMIT")
    assert " are read" in limit.message
    assert source.n_read <= MAX_HEADER_BYTES


def test_a_file_object_is_read_like_bytes(path: Path) -> None:
    raw = write(path).read_bytes()
    with path.open("rb") as file:
        assert dict(read_header(file).fields) == FIELDS
    assert read_header(io.BytesIO(raw)).entries == read_header(raw).entries


def test_every_cut_of_a_file_is_refused_with_what_is_missing(path: Path, tmp_path: Path) -> None:
    raw = write(path).read_bytes()
    cut = tmp_path / "cut.gguf"
    for n in [*range(0, 600, 7), len(raw) - 1]:
        cut.write_bytes(raw[:n])
        with pytest.raises(GgufError) as caught:
            GgufFile.open(cut)
        assert caught.value.hint
        assert str(cut) in caught.value.message
    assert "1 bytes are missing" in caught.value.message


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 26441533376\n"


@pytest.mark.parametrize(
    ("raw", "words", "code"),
    [
        (b"", "empty", "GGUF-FILE-EMPTY"),
        (b"<!DOCTYPE html><html>", "web page", "GGUF-FILE-HTML"),
        (b"\n <html lang=en>", "web page", "GGUF-FILE-HTML"),
        (LFS, "pointer to 26,441,533,376 bytes", "GGUF-FILE-LFS-POINTER"),
        (bytes(4096), "zeros", "GGUF-FILE-ZEROS"),
        (b"lmgg\1\0\0\0", "older than GGUF", "GGUF-MAGIC"),
        (b"PK\x03\x04abc", "zip", "GGUF-MAGIC"),
        (b'{"error":"x"}', "JSON", "GGUF-MAGIC"),
        (b"<?xml version='1.0'?>", "XML", "GGUF-MAGIC"),
        (b'\x10\0\0\0\0\0\0\0{"a":{"dtype":"F32"}}', "safetensors", "GGUF-MAGIC"),
        (b"GG", "too short", "GGUF-MAGIC"),
        (b"whatever", "starts with b'what'", "GGUF-MAGIC"),
    ],
)  # fmt: skip
def test_what_is_not_a_gguf_is_named(path: Path, raw: bytes, words: str, code: str) -> None:
    path.write_bytes(raw)
    assert read_header(raw).issues[0].code == code
    with pytest.raises(GgufError, match=words) as caught:
        GgufFile.open(path)
    assert caught.value.hint
    assert caught.value.path == path


def test_missing_file_and_folder_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match="no such file"):
        GgufFile.open(tmp_path / "none.gguf")
    with pytest.raises(GgufError, match="is a folder"):
        GgufFile.open(tmp_path)


def test_a_newer_tensor_type_is_unsupported_not_damaged(path: Path) -> None:
    write_mixtral(path, TINY)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"output_norm.weight") + len("output_norm.weight") + 4 + 8
    assert struct.unpack_from("<i", raw, at) == (QuantType.F32,)
    raw[at] = 77
    path.write_bytes(raw)
    with pytest.raises(UnsupportedGgufError, match="type 77 is newer"):
        GgufFile.open(path)


def test_string_arrays_behave_like_tuples() -> None:
    words = ["", "a", "hé", "\udcff raw"]
    array = StringArray.of(words)
    assert array == words
    assert array == StringArray.of(words)
    assert array != words[:-1]
    assert array != "other"
    assert array[-1] == words[-1]
    assert array[1:3] == words[1:3]
    assert list(array.lengths()) == [0, 1, 3, 5]
    assert "n=4" in repr(array)
    with pytest.raises(IndexError):
        array[4]


@pytest.mark.parametrize(
    ("value", "type"),
    [
        (1, "uint32"), (-1, "int32"), (2**32, "uint64"), (-(2**40), "int64"), (True, "bool"),
        (0.5, "float32"), ("x", "string"), (["x"], "array of string"),
        ([1.5], "array of float64"), (np.uint8(3), "uint8"), (np.float64(3), "float64"),
        (np.array([1], ">i4"), "array of int32"),
    ],
)  # fmt: skip
def test_values_get_the_type_of_the_converters(value: object, type: str) -> None:
    assert Field.of(value).type_name == type


@pytest.mark.parametrize("value", [None, {}, [None], np.zeros((2, 2)), [1 + 2j]])
def test_values_of_no_gguf_type_are_refused(value: object) -> None:
    with pytest.raises(TypeError):
        Field.of(value)


def test_integers_beyond_64_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="no GGUF type holds"):
        Field.of(2**64)
    assert Field.of(3) != Field.of(4)
    assert Field.of(3) != 3
