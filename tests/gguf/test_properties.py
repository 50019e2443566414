"""Properties that hold for any file: what is written is read, and what is damaged is survived."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gguf_hub.errors import GgufError
from gguf_hub.gguf.format import Field, TensorSpec, ValueType, tensor_size_bytes
from gguf_hub.gguf.header import read_header
from gguf_hub.gguf.inspection import inspect
from gguf_hub.gguf.layout import read_table
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.strings import StringArray
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.upgrade import plan_upgrade
from gguf_hub.gguf.validate import validate_file, validate_source
from gguf_hub.gguf.writer import encode_header, plan_file, write_gguf
from tests.synth import TINY, write_mixtral

SCALARS = [type for type in ValueType if type.code]
quick = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def numbers(type: ValueType) -> st.SearchStrategy[object]:
    """Every value that a type holds."""
    if type is ValueType.BOOL:
        return st.booleans()
    if type.is_integer:
        limits = np.iinfo(type.dtype)
        return st.integers(int(limits.min), int(limits.max))
    width = 32 if type is ValueType.FLOAT32 else 64
    return st.floats(width=width)


@st.composite
def fields(draw: st.DrawFn) -> Field:
    """Any field."""
    kind = draw(st.sampled_from(["scalar", "text", "texts", "array"]))
    if kind == "text":
        return Field.of(draw(texts))
    if kind == "texts":
        return Field(ValueType.ARRAY, StringArray.of(draw(st.lists(texts, max_size=8))),
                     ValueType.STRING)  # fmt: skip
    type = draw(st.sampled_from(SCALARS))
    if kind == "scalar":
        return Field(type, draw(numbers(type)))
    values = draw(st.lists(numbers(type), max_size=8))
    return Field(ValueType.ARRAY, np.array(values, type.dtype), type)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[TensorSpec, bytes]:
    """Any small tensor with random data."""
    type = draw(st.sampled_from(QuantType))
    rows = draw(st.lists(st.integers(1, 3), max_size=3))
    shape = (type.block_size * draw(st.integers(1, 2)), *rows)
    name = draw(st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1,
                        max_size=30))  # fmt: skip
    seed = draw(st.integers(0, 2**32 - 1))
    data = np.random.default_rng(seed).bytes(tensor_size_bytes(shape, type))
    return TensorSpec(name, shape, type), data


@pytest.mark.slow
@quick
@given(
    st.dictionaries(keys, fields(), max_size=8),
    st.lists(tensors(), max_size=5, unique_by=lambda pair: pair[0].name),
    st.sampled_from([1, 8, 32, 64, 4096]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from(["little", "big"]),
)
def test_what_is_written_is_read(tmp_path: Path, meta, pairs, alignment, version, order) -> None:
    meta.pop("general.alignment", None)
    path = tmp_path / "a.gguf"
    write_gguf(path, meta, pairs, alignment=alignment, version=version, byte_order=order)
    file = GgufFile.open(path)
    found = {key: field for key, field in file.fields.items() if key != "general.alignment"}
    assert found == meta
    assert list(found) == list(meta)
    assert (file.version, file.byte_order, file.alignment) == (version, order, alignment)
    assert [(i.name, i.shape, i.type) for i in file.tensors.values()] == [
        (spec.name, spec.shape, spec.type) for spec, _ in pairs
    ]
    for spec, data in pairs:
        assert file.tensor_bytes(spec.name).tobytes() == data
    damage = {issue.code for issue in validate_file(path).issues} & {
        "GGUF-TENSOR-BOUNDS", "GGUF-TENSOR-OVERLAP", "GGUF-TENSOR-GAP", "GGUF-TENSOR-ORDER",
        "GGUF-TRAILING-BYTES", "GGUF-TRUNCATED",
    }  # fmt: skip
    assert damage == set()


@quick
@given(st.dictionaries(keys, fields(), max_size=8))
def test_what_is_read_is_written_to_the_byte(meta: dict[str, Field]) -> None:
    raw = encode_header(meta, [])
    assert encode_header(read_header(raw).fields, []) == raw


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Small whole files, to be mutilated."""
    folder = tmp_path_factory.mktemp("seeds")
    small = [
        write_mixtral(folder / "a.gguf", TINY),
        write_mixtral(folder / "b.gguf", TINY, layout="merged", version=1),
        write_mixtral(folder / "c.gguf", TINY, byte_order="big"),
    ]
    raws = [path.read_bytes()[:20_000] for path in small]
    spec = TensorSpec("t", (32,), QuantType.Q4_0)
    plan = plan_file(FIELDS, [spec])
    return [*raws, plan.header.ljust(plan.size_bytes, b"\0")]


FIELDS = {
    "general.architecture": Field.of("llama"), "a.b": Field.of(3), "c": Field.of(["x", "yy"]),
    "d": Field.of(np.arange(5, dtype=np.float32)), "e": Field.of(True),
    "tokenizer.chat_template": Field.of("{{ x }}"),
}  # fmt: skip

mutations = st.lists(
    st.tuples(
        st.sampled_from(["set", "insert", "delete", "word", "cut"]),
        st.integers(0, 2**16),
        st.integers(0, 255),
        st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1]),
    ),
    min_size=1,
    max_size=6,
)


def mutilate(raw: bytes, changes) -> bytes:
    """Change bytes here and there; most changes hit the first kilobyte."""
    data = bytearray(raw)
    for kind, at, byte, word in changes:
        at = (at % 1000 if byte % 4 else at) % max(len(data), 1)
        if kind == "set":
            data[at : at + 1] = bytes([byte])
        elif kind == "insert":
            data[at:at] = bytes([byte]) * (byte % 9)
        elif kind == "delete":
            del data[at : at + byte % 9]
        elif kind == "word":
            data[at : at + 8] = word.to_bytes(8, "little")
        else:
            del data[at:]
    return bytes(data)


@pytest.mark.slow
@settings(quick, max_examples=400)
@given(st.integers(0, 3), mutations)
def test_damage_is_reported_and_never_raised(tmp_path: Path, seeds, which, changes) -> None:
    raw = mutilate(seeds[which], changes)
    path = tmp_path / "a.gguf"
    path.write_bytes(raw)
    report = validate_file(path, "deep")
    assert validate_source(raw, "bytes").verdict in ("sound", "unsupported", "damaged")
    for action in (GgufFile.open, plan_upgrade, lambda p: inspect(p.read_bytes(), str(p))):
        try:
            action(path)
        except GgufError:
            assert report.verdict != "sound"
    header = read_header(raw)
    for info in read_table(header).tensors.values():
        assert info.size_bytes >= 0
    for key in header.fields:
        assert header.fields[key] == header.fields[key]


@pytest.mark.skipif(sys.platform == "win32", reason="no resource limits")
def test_no_damage_makes_memory_grow(tmp_path: Path, seeds) -> None:
    """Announced sizes of every kind, one after another: the peak of the process stays."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rng = np.random.default_rng(0)
    path = tmp_path / "a.gguf"
    for i in range(300):
        raw = bytearray(seeds[i % 4])
        for at in rng.integers(8, 900, 4):
            raw[at : at + 8] = (
                rng.bytes(8) if i % 2 else (1 << int(rng.integers(64))).to_bytes(8, "little")
            )
        path.write_bytes(raw)
        validate_file(path, "deep")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) * 1024 < 64e6


@given(st.lists(st.binary(max_size=12) | st.sampled_from([b"a\0b", b"\xe2\x82", b"\x82\xac", b""])))
def test_strings_decoded_at_once_are_those_decoded_one_by_one(raws: list[bytes]) -> None:
    texts = [raw.decode("utf-8", "surrogateescape") for raw in raws]
    array = StringArray.of(texts)
    assert list(array) == [array[i] for i in range(len(array))] == texts
