from __future__ import annotations

import json
import os
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.errors import GgufError
from gguf_hub.gguf.format import Field, TensorSpec, ValueType
from gguf_hub.gguf.issues import GROUPS, MOST_PER_CODE, RULES, Severity
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import REMOVED_TYPE_IDS, QuantType
from gguf_hub.gguf.validate import validate_file, validate_source
from gguf_hub.gguf.validate.deep import SCALES
from gguf_hub.gguf.validate.template import suspicious
from gguf_hub.gguf.writer import plan_file, write_gguf
from tests import synth
from tests.gguf import raw
from tests.synth import TINY, metadata, tensors, u32, write_mixtral

DOCS = Path(__file__).resolve().parents[2] / "docs" / "gguf-checks.md"

# Where the verdict differs from that of ggml and llama.cpp; docs/gguf-checks.md gives the reasons.
DIFFERS = {
    "hdr_bad_version_v1.gguf": "unsupported",
    "hdr_bad_version_byteswapped3.gguf": "unsupported",
    "tensor_bad_type_count.gguf": "unsupported",
    "vocab_unknown_model.gguf": "unsupported",
    "model_ctx_0.gguf": "unsupported",
    "kv_bool_array_2.gguf": "damaged",
    "kv_invalid_utf8_key.gguf": "damaged",
    "tensor_name_badutf8.gguf": "damaged",
    "vocab_byte_token_negative.gguf": "damaged",
    "vocab_no_tokens.gguf": "damaged",
}


def codes(source: Any, level: Any = "structure") -> set[str]:
    return {issue.code for issue in validate_source(source, "bytes", level).issues}


# -- the corpus ------------------------------------------------------------------------------


def cases(data: Path) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads((data / "malformed/cases.json").read_text())["cases"]
    assert len(found) == 80
    return found


def test_every_malformed_file_gets_its_verdict(data: Path) -> None:
    wrong = {}
    for case in cases(data):
        loads = (case["gguf_init"], case.get("llama_load", "accept")) == ("accept", "accept")
        expected = DIFFERS.get(case["file"], "sound" if loads else "damaged")
        report = validate_file(data / "malformed" / case["file"], "deep")
        if report.verdict != expected:
            wrong[case["file"]] = (expected, report.verdict, report.issues)
        assert report.is_sound == (report.verdict != "damaged")
    assert wrong == {}


def test_every_malformed_file_is_judged_in_no_time_and_space(data: Path) -> None:
    for case in cases(data):
        path = data / "malformed" / case["file"]
        tracemalloc.start()
        start = time.process_time()
        validate_file(path, "deep")
        seconds = time.process_time() - start
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert seconds < 0.5, case["file"]
        assert peak < 64e6, case["file"]


def test_what_opens_is_what_can_be_read_safely(data: Path) -> None:
    """Opening refuses no more than the validator, and never lets a tensor out of the file."""
    for case in cases(data):
        path = data / "malformed" / case["file"]
        try:
            file = GgufFile.open(path)
        except GgufError:
            assert validate_file(path).verdict != "sound", case["file"]
            continue
        for name, info in file.tensors.items():
            assert file.tensor_bytes(name).size == info.size_bytes


def test_real_files_have_no_issue(data: Path) -> None:
    paths = [*(data / "models").rglob("*.gguf"), *(data / "vocab").glob("*.gguf")]
    assert len(paths) >= 9
    for path in paths:
        assert validate_file(path, "deep").issues == (), path.name


@pytest.mark.parametrize("layout", ["split", "merged"])
@pytest.mark.parametrize("recipe", ["F16", "Q4_K_M", "Q2_K", "Q3_K_M", "Q5_0", "Q8_0", "BF16"])
def test_synthetic_mixtrals_have_no_issue(tmp_path: Path, layout: str, recipe: str) -> None:
    path = write_mixtral(tmp_path / "a.gguf", synth.SMALL, layout=layout, recipe=recipe)
    assert validate_file(path, "deep").issues == ()


def test_dense_llamas_have_no_issue(tmp_path: Path) -> None:
    dense = synth.Shape(n_layer=2, n_embd=64, n_head=4, n_head_kv=4, n_ff=96, n_expert=0,
                        n_vocab=300)  # fmt: skip
    assert validate_file(write_mixtral(tmp_path / "a.gguf", dense)).issues == ()


def test_full_size_header_is_validated_quickly(tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "a.gguf", synth.Shape(), recipe="Q4_K_M", sparse=True)
    report = validate_file(path)
    assert report.issues == ()
    assert report.header.size_bytes > 26e9


# -- one breach of every rule ----------------------------------------------------------------

T = raw.tensor
F32_ALIGNED = bytes(128)
BYTES: dict[str, bytes] = {
    "GGUF-FILE-EMPTY": b"",
    "GGUF-FILE-HTML": b"<!doctype html>",
    "GGUF-FILE-IMATRIX": struct.pack("<ii19sii", 1, 19, b"blk.0.ffn_up.weight", 3, 0),
    "GGUF-FILE-LFS-POINTER": b"version https://git-lfs.github.com/spec/v1\n",
    "GGUF-FILE-ZEROS": bytes(64),
    "GGUF-MAGIC": b"what is this",
    "GGUF-VERSION": raw.gguf(version=4),
    "GGUF-VERSION-OLD": b"GGUF" + struct.pack("<III", 1, 0, 0),
    "GGUF-BIG-ENDIAN": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "GGUF-TRUNCATED": b"GGUF\3\0\0\0\0\0",
    "GGUF-COUNT": raw.gguf(n_kv=10),
    "GGUF-LIMIT": raw.gguf(n_kv=70_000, data=bytes(70_000 * 13)),
    "GGUF-TRAILING-BYTES": raw.with_tensors(T(), size=256),
    "GGUF-KEY-EMPTY": raw.with_kv(raw.u32("", 1)),
    "GGUF-KEY-DUPLICATE": raw.with_kv(raw.u32("a", 1), raw.u32("a", 2)),
    "GGUF-KEY-UTF8": raw.with_kv(raw.string(b"a\xff", "x")),
    "GGUF-KEY-LENGTH": raw.with_kv(raw.u32("a" * 65_536, 1)),
    "GGUF-KEY-NAME": raw.with_kv(raw.u32("Not.snake", 1)),
    "GGUF-STRING-LENGTH": raw.with_kv(raw.kv("a", 8, struct.pack("<Q", 2**63) + b"x")),
    "GGUF-STRING-UTF8": raw.with_kv(raw.string("a", b"\xff")),
    "GGUF-STRING-NUL": raw.with_kv(raw.string("a", "x\0y")),
    "GGUF-VALUE-TYPE": raw.with_kv(raw.kv("a", 13, bytes(8))),
    "GGUF-ARRAY-TYPE": raw.with_kv(raw.array("a", 9, 1, bytes(16))),
    "GGUF-ARRAY-LENGTH": raw.with_kv(raw.array("a", 4, 2**62, bytes(16))),
    "GGUF-BOOL-VALUE": raw.with_kv(raw.kv("a", 7, b"\2")),
    "GGUF-ALIGNMENT": raw.with_kv(raw.u32("general.alignment", 24)),
    "GGUF-ALIGNMENT-UNUSUAL": raw.with_kv(raw.u32("general.alignment", 4)),
    "GGUF-TENSOR-NAME-DUPLICATE": raw.with_tensors(T("a"), T("a", offset=128), size=256),
    "GGUF-TENSOR-NAME-LENGTH": raw.with_tensors(T("a" * 64)),
    "GGUF-TENSOR-NAME-UTF8": raw.with_tensors(T(b"\xff")),
    "GGUF-TENSOR-NAME-EMPTY": raw.with_tensors(T("")),
    "GGUF-TENSOR-NAME-NUL": raw.with_tensors(T("a\0b")),
    "GGUF-TENSOR-DIMS": raw.with_tensors(T(shape=(1,) * 5)),
    "GGUF-TENSOR-SCALAR": raw.with_tensors(T(shape=()), size=32),
    "GGUF-TENSOR-DIM-NEGATIVE": raw.with_tensors(T(shape=(2**63,))),
    "GGUF-TENSOR-DIM-HUGE": raw.with_tensors(T(shape=(2**32 + 1,))),
    "GGUF-TENSOR-DIM-ZERO": raw.with_tensors(T(shape=(32, 0))),
    "GGUF-TENSOR-OVERFLOW": raw.with_tensors(T(shape=(2**32, 2**31))),
    "GGUF-TENSOR-TYPE": raw.with_tensors(T(type_id=4)),
    "GGUF-TENSOR-TYPE-UNKNOWN": raw.with_tensors(T(type_id=43)),
    "GGUF-OLLAMA-TYPE": raw.gguf(
        raw.string("general.architecture", "gptoss"), T(type_id=4), n_kv=1, n_tensors=1,
        data=bytes(128)),
    "GGUF-OLLAMA-NAMES": raw.gguf(
        raw.string("general.architecture", "gptoss"), T("blk.0.attn_sinks"), n_kv=1, n_tensors=1,
        data=bytes(128)),
    "GGUF-LEFT-OUT": raw.gguf(
        raw.string("general.architecture", "gemma3"), raw.u32("gemma3.vision.block_count", 1),
        T("v.patch_embd.weight"), n_kv=2, n_tensors=1, data=bytes(128)),
    "GGUF-TENSOR-BLOCK": raw.with_tensors(T(shape=(32,), type_id=QuantType.Q4_K)),
    "GGUF-TENSOR-ALIGNMENT": raw.with_tensors(T(offset=4), size=160),
    "GGUF-TENSOR-OVERLAP": raw.with_tensors(T("a"), T("b", offset=96), size=224),
    "GGUF-TENSOR-ORDER": raw.with_tensors(T("a", offset=128), T("b"), size=256),
    "GGUF-TENSOR-GAP": raw.with_tensors(T("a"), T("b", offset=160), size=288),
    "GGUF-TENSOR-BOUNDS": raw.with_tensors(T(), size=127),
    "GGUF-PARAMS": raw.with_tensors(T(shape=(32, 1000))),
    "GGUF-ARCH-MISSING": raw.with_tensors(T()),
}  # fmt: skip


def key(name: str, value: Any) -> dict[str, Field]:
    full = name if "." in name and not name.startswith(("attention", "rope")) else f"llama.{name}"
    return {full: value if isinstance(value, Field) else Field.of(value)}


TOKENS = ["<unk>", "<s>", "</s>", "<0x41>", "a"] + [f"w{i}" for i in range(295)]
TYPES = np.array([2, 3, 3, 6, 1] + [1] * 295, np.int32)
FIELDS: dict[str, dict[str, Field]] = {
    "GGUF-ARCH-UNKNOWN": key("general.architecture", "squirrel"),
    "GGUF-HPARAM-TYPE": key("block_count", "two"),
    "GGUF-HPARAM-LENGTH": key("attention.head_count_kv", np.array([2, 2, 2], np.uint32)),
    "GGUF-BLOCK-COUNT": key("block_count", 513),
    "GGUF-HEAD-COUNT": key("attention.head_count_kv", 3),
    "GGUF-EXPERT-COUNT": key("expert_used_count", 9),
    "GGUF-EMBEDDING": key("embedding_length", 63),
    "GGUF-ROPE-DIM": key("rope.dimension_count", 15),
    "GGUF-HPARAM-VALUE": key("rope.freq_base", float("inf")),
    "GGUF-NORM-EPS": key("attention.layer_norm_rms_epsilon", float("nan")),
    "GGUF-CONTEXT": key("context_length", 0),
    "GGUF-TENSOR-SHAPE": key("feed_forward_length", 95),
    "GGUF-TOKENIZER-UNKNOWN": key("tokenizer.ggml.model", "bogus"),
    "GGUF-TOKENIZER-TYPE": key("tokenizer.ggml.bos_token_id", "one"),
    "GGUF-TOKENIZER-EMPTY": key("tokenizer.ggml.tokens", []),
    "GGUF-TOKENIZER-LENGTH": key("tokenizer.ggml.token_type", TYPES[:7]),
    "GGUF-TOKENIZER-SCORES": key("tokenizer.ggml.scores", np.full(300, np.nan, np.float32)),
    "GGUF-TOKENIZER-CHARSMAP": {**key("tokenizer.ggml.model", "t5"),
                                **key("tokenizer.ggml.precompiled_charsmap", np.ones(9, np.uint8))},
    "GGUF-TOKENIZER-MERGES": key("tokenizer.ggml.model", "gemma4"),
    "GGUF-TOKENIZER-PRE": key("tokenizer.ggml.model", "gpt2"),
    "GGUF-TOKENIZER-ID": key("tokenizer.ggml.eos_token_id", 300),
    "GGUF-TOKENIZER-BYTE": {**key("tokenizer.ggml.tokens", [*TOKENS[:3], "<0x-1>", *TOKENS[4:]]),
                            **key("tokenizer.ggml.token_type", TYPES)},
    "GGUF-TOKENIZER-TOKEN-EMPTY": key("tokenizer.ggml.tokens", [*TOKENS[:-1], ""]),
    "GGUF-TOKENIZER-TOKEN-TWINS": key("tokenizer.ggml.tokens", [*TOKENS[:-1], TOKENS[270]]),
    "GGUF-TOKENIZER-TOKEN-LONG": key("tokenizer.ggml.tokens", [*TOKENS[:-1], "x" * 5000]),
    "GGUF-TOKENIZER-TOKEN-UTF8": key("tokenizer.ggml.tokens", [*TOKENS[:-1], "\udcff"]),
    "GGUF-TOKENIZER-VOCAB-SIZE": key("vocab_size", 299),
    "GGUF-TEMPLATE": key("tokenizer.chat_template", "{{ x.__class__.__mro__ }}"),
}  # fmt: skip


def model(fields: dict[str, Field], specs: list[TensorSpec], path: Path) -> Path:
    """A file of zeros."""
    plan = plan_file(fields, specs)
    path.write_bytes(plan.header)
    os.truncate(path, plan.size_bytes)
    return path


def without(prefix: str) -> dict[str, Field]:
    return {name: f for name, f in metadata(TINY).items() if not name.startswith(prefix)}


def test_the_model_that_the_breaches_start_from_is_clean(tmp_path: Path) -> None:
    path = model(metadata(TINY), tensors(TINY, "split", "F32"), tmp_path / "a.gguf")
    assert validate_file(path, "deep").issues == ()


@pytest.mark.parametrize("code", BYTES)
def test_a_breach_in_the_bytes_is_found(code: str) -> None:
    assert code in codes(BYTES[code])


@pytest.mark.parametrize("code", FIELDS)
def test_a_breach_in_the_metadata_is_found(tmp_path: Path, code: str) -> None:
    fields = {**metadata(TINY), **FIELDS[code]}
    path = model(fields, tensors(TINY, "split", "F32"), tmp_path / "a.gguf")
    report = validate_file(path)
    assert code in {issue.code for issue in report.issues}
    assert report.is_sound == (not report.of(Severity.ERROR))


STRUCTURE = ["GGUF-HPARAM-MISSING", "GGUF-TENSOR-MISSING", "GGUF-TENSOR-UNUSED",
             "GGUF-EXPERT-LAYOUT", "GGUF-TOKENIZER-MISSING", "GGUF-PAIR"]  # fmt: skip


@pytest.mark.parametrize("code", STRUCTURE)
def test_a_breach_of_the_structure_is_found(tmp_path: Path, code: str) -> None:
    fields, specs = metadata(TINY), tensors(TINY, "split", "F32")
    if code == "GGUF-HPARAM-MISSING":
        fields = without("llama.block_count")
    elif code == "GGUF-PAIR":
        fields = key("general.type", "imatrix")
        specs = [TensorSpec("blk.0.ffn_up.weight.in_sum2", (32,), QuantType.F32)]
    elif code == "GGUF-TOKENIZER-MISSING":
        fields = without("tokenizer.")
    elif code == "GGUF-TENSOR-MISSING":
        specs = [spec for spec in specs if spec.name != "blk.1.ffn_up.3.weight"]
    elif code == "GGUF-TENSOR-UNUSED":
        specs.append(TensorSpec("squirrel", (32,), QuantType.F32))
    else:
        merged = tensors(TINY, "merged", "F32")
        specs += [spec for spec in merged if spec.name == "blk.0.ffn_up_exps.weight"]
    report = validate_file(model(fields, specs, tmp_path / "a.gguf"))
    also = {"GGUF-NOT-RUNNABLE"} if report.is_sound and "TENSOR" in code else set()
    assert {issue.code for issue in report.issues} == {code} | also


def test_every_rule_has_a_breach_here() -> None:
    elsewhere = {
        "GGUF-DATA-NAN",
        "GGUF-NOT-RUNNABLE",
        "GGUF-EDIT-UNFINISHED",
        *(rule.code for rule in GROUPS["Sets of shards"]),
    }
    assert {*BYTES, *FIELDS, *STRUCTURE, *elsewhere} == set(RULES)


def test_the_documentation_lists_every_rule_as_it_is() -> None:
    rows = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if "`GGUF-" in line[:9]]
    assert rows == [
        f"| `{rule.code}` | {rule.severity.value} | {rule.meaning} | {rule.source} |"
        for rule in RULES.values()
    ]


def test_the_documentation_gives_a_reason_for_every_difference() -> None:
    text = DOCS.read_text(encoding="utf-8")
    rows = [
        line.split("|") for line in text.splitlines() if line.startswith("| `") and ".gguf`" in line
    ]
    assert {row[1].strip(" `"): row[3].strip() for row in rows} == DIFFERS
    assert all(len(row[4]) > 20 for row in rows)


# -- single rules ----------------------------------------------------------------------------


@pytest.mark.parametrize("length", [100, 2**31, 2**62, 2**63, 2**64 - 50, 2**64 - 9, 2**64 - 1])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_string_of_an_array_that_leaves_the_file_is_named(length: int, which: int) -> None:
    words = [raw.text("word")] * which + [struct.pack("<Q", length), bytes(40)]
    report = validate_source(raw.with_kv(raw.array("a", 8, 3, b"".join(words))), "bytes")
    assert [issue.code for issue in report.issues] == ["GGUF-STRING-LENGTH"]
    assert report.issues[0].message.startswith(f"string {which} of the array")


@pytest.mark.parametrize("id", [*sorted(REMOVED_TYPE_IDS), 256, 2**31, 2**32 - 1])
def test_removed_and_impossible_types_are_damage(id: int) -> None:
    assert "GGUF-TENSOR-TYPE" in codes(raw.with_tensors(T(type_id=id)))


def test_data_behind_a_newer_type_is_not_blamed() -> None:
    found = codes(raw.with_tensors(T("a", type_id=50), T("b", offset=960), size=1088))
    assert found == {"GGUF-TENSOR-TYPE-UNKNOWN", "GGUF-ARCH-MISSING"}


def test_a_missing_layer_is_one_issue(tmp_path: Path) -> None:
    specs = [spec for spec in tensors(TINY, "split", "F32") if not spec.name.startswith("blk.1.")]
    report = validate_file(model(metadata(TINY), specs, tmp_path / "a.gguf"))
    assert [str(issue) for issue in report.issues] == ["block 1: none of its tensors is there"]


def test_hyphens_belong_to_architectures() -> None:
    arch = raw.string("general.architecture", "gpt-oss")
    assert codes(raw.with_kv(arch, raw.u32("gpt-oss.block_count", 1))) == set()
    assert codes(raw.with_kv(arch, raw.u32("gpt-o.block_count", 1))) == {"GGUF-KEY-NAME"}


def test_heads_may_differ_from_block_to_block(tmp_path: Path) -> None:
    per_layer = {"llama.attention.head_count_kv": Field.of(np.array([2, 2], np.int32))}
    fields = {**metadata(TINY), **per_layer}
    specs = tensors(TINY, "merged", "F32")
    assert validate_file(model(fields, specs, tmp_path / "a.gguf")).issues == ()
    fields["llama.attention.head_count_kv"] = Field.of(np.array([2, 1], np.int32))
    issues = validate_file(model(fields, specs, tmp_path / "a.gguf")).issues
    assert [issue.location for issue in issues] == [
        "tensor `blk.1.attn_k.weight`", "tensor `blk.1.attn_v.weight`",
    ]  # fmt: skip
    fields["llama.attention.head_count_kv"] = Field.of(np.array([2], np.int32))
    (issue,) = validate_file(model(fields, specs, tmp_path / "b.gguf")).issues
    assert issue.message == "expected one number for each of 2 layers, found 1"


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("attention.head_count", u32(0), "GGUF-HEAD-COUNT"),
        ("embedding_length", u32(0), "GGUF-EMBEDDING"),
        ("block_count", u32(0), "GGUF-BLOCK-COUNT"),
        ("expert_count", u32(2000), "GGUF-EXPERT-COUNT"),
        ("expert_used_count", u32(0), "GGUF-EXPERT-COUNT"),
        ("attention.layer_norm_rms_epsilon", Field.of(-1.0), "GGUF-NORM-EPS"),
        ("block_count", Field(ValueType.UINT64, 2), "GGUF-HPARAM-TYPE"),
        ("rope.freq_base", Field.of(1.0), "GGUF-HPARAM-VALUE"),
        ("rope.scaling.factor", Field.of(float("nan")), "GGUF-HPARAM-VALUE"),
        ("rope.scaling.yarn_beta_fast", Field.of(0.0), "GGUF-HPARAM-VALUE"),
        ("rope.scaling.yarn_beta_slow", Field.of(-1.0), "GGUF-HPARAM-VALUE"),
        ("rope.scaling.yarn_ext_factor", Field.of("a"), "GGUF-HPARAM-TYPE"),
    ],
)
def test_numbers_out_of_range(tmp_path: Path, name: str, value: Field, code: str) -> None:
    fields = {**metadata(TINY), f"llama.{name}": value}
    report = validate_file(model(fields, tensors(TINY, "merged", "F32"), tmp_path / "a.gguf"))
    assert code in {issue.code for issue in report.issues}


@pytest.mark.parametrize("name", ["attention.head_count", "attention.head_count_kv"])
def test_an_empty_array_of_texts_holds_no_numbers(tmp_path: Path, name: str) -> None:
    fields = {**metadata(TINY), f"llama.{name}": Field.of([])}
    report = validate_file(model(fields, tensors(TINY, "merged", "F32"), tmp_path / "a.gguf"))
    assert "GGUF-HEAD-COUNT" in {issue.code for issue in report.issues}


def test_many_breaches_of_one_rule_are_counted(tmp_path: Path) -> None:
    parts = [raw.u32(f"Key{i}", 1) for i in range(100)]
    report = validate_source(raw.with_kv(*parts), "bytes")
    assert len(report.issues) == MOST_PER_CODE + 1
    assert report.issues[-1].message == "80 more of this kind"


def test_a_hostile_table_costs_little(tmp_path: Path) -> None:
    """512 blocks of 1,024 experts, announced by one small tensor each."""
    fields = {**metadata(TINY), "llama.block_count": u32(512), "llama.expert_count": u32(1024)}
    specs = [TensorSpec(f"blk.{i}.ffn_up.0.weight", (32,), QuantType.F32) for i in range(512)]
    path = model(fields, specs, tmp_path / "a.gguf")
    start = time.process_time()
    assert not validate_file(path).is_sound
    assert time.process_time() - start < 5


def test_header_level_looks_at_the_format_alone(tmp_path: Path) -> None:
    fields = {**metadata(TINY), **FIELDS["GGUF-TENSOR-SHAPE"]}
    path = model(fields, tensors(TINY, "split", "F32"), tmp_path / "a.gguf")
    assert validate_file(path, "header").issues == ()
    assert validate_file(path).issues != ()


def test_a_report_is_json_with_stable_keys() -> None:
    report = validate_source(BYTES["GGUF-TENSOR-GAP"], "name")
    found = json.loads(json.dumps(report.as_dict()))
    assert set(found) == {"path", "size_bytes", "level", "verdict", "issues"}
    assert set(found["issues"][0]) == {"code", "severity", "place", "offset", "message"}
    assert found["verdict"] == "damaged"


def test_a_missing_file_is_the_only_thing_that_raises(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match="no such file"):
        validate_file(tmp_path / "none.gguf")


# -- chat templates --------------------------------------------------------------------------


def test_templates_of_real_models_are_clean(data: Path) -> None:
    def walk(node: Any) -> list[str]:
        if isinstance(node, str):
            return [node] if "{%" in node else []
        children = node.values() if isinstance(node, dict) else node
        return [t for c in children for t in walk(c)] if isinstance(node, (dict, list)) else []

    templates = walk(json.loads((data / "chat/chat_templates.llamacpp.json").read_text()))
    assert len(templates) > 30
    assert [t for t in templates if suspicious(t)] == []


@pytest.mark.parametrize(
    "payload",
    [
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% for c in [].__class__.__base__.__subclasses__() %}{% endfor %}",
        "{{ x['_'*2 ~ 'class' ~ '_'*2] }}",
        "{{ x|attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
        "{{ x | attr(y) }}",
        "{{ self._TemplateReference__context }}",
        "{% include 'x' %}",
        "{{ x.eval('1') }}",
        "{{ x[\n'__class__'\n] }}",
    ],
)
def test_templates_that_attack_are_named(payload: str) -> None:
    assert suspicious("{% for m in messages %}{{ m.content }}{% endfor %}" + payload)
    assert not suspicious(payload.replace("{", "(").replace("}", ")"))


# -- data ------------------------------------------------------------------------------------

SCALED = [type for type, scales in SCALES.items() if scales] + [QuantType.IQ1_M]

# (offset, bytes) of each floating-point number of a block, by the structures of ggml-common.h
ONE, TWO = [(0, 2)], [(0, 2), (2, 2)]
BLOCK_SCALES = {
    **dict.fromkeys(("F16", "BF16", "Q4_0", "Q5_0", "Q8_0", "Q1_0", "Q2_0"), ONE),
    **dict.fromkeys(("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S"), ONE),
    **dict.fromkeys(("IQ4_NL", "IQ4_XS"), ONE),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q8_1", "Q4_K", "Q5_K"), TWO),  # d, then m, s or dmin
    "F32": [(0, 4)],
    "Q8_K": [(0, 4)],
    "F64": [(0, 8)],
    "Q2_K": [(16 + 64, 2), (16 + 64 + 2, 2)],  # behind scales and qs: d, dmin
    "Q3_K": [(32 + 64 + 12, 2)],  # behind hmask, qs and scales
    "Q6_K": [(128 + 64 + 16, 2)],  # behind ql, qh and scales
    "IQ1_M": [(32 + 16, 8)],  # behind qs and qh: four bits in each of four words
    "TQ1_0": [(48 + 4, 2)],  # behind qs and qh
    "TQ2_0": [(64, 2)],  # behind qs
    "MXFP4": [(0, 1)],  # e
}


def test_data_without_scales_is_known_by_name() -> None:
    plain = {QuantType.I8, QuantType.I16, QuantType.I32, QuantType.I64, QuantType.NVFP4}
    assert set(SCALED) | plain == set(QuantType)
    assert {type.name for type in SCALED} == set(BLOCK_SCALES)


@pytest.mark.parametrize(
    ("type", "at", "n_bytes"),
    [(type, *scale) for type in SCALED for scale in BLOCK_SCALES[type.name]],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_a_bad_scale_is_found_wherever_it_stands(
    tmp_path: Path, type: QuantType, at: int, n_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An all-ones scale is NaN in every type; a block in the second piece is counted right."""
    monkeypatch.setattr("gguf_hub.gguf.validate.deep.CHUNK_BYTES", type.type_size * 10)
    blocks = np.zeros((25, type.type_size), np.uint8)
    path = tmp_path / "a.gguf"
    spec = TensorSpec("t", (type.block_size * 25,), type)
    write_gguf(path, {}, [(spec, blocks)])
    assert "GGUF-DATA-NAN" not in {issue.code for issue in validate_file(path, "deep").issues}
    bad = blocks.copy()
    bad[[17, 23], at : at + n_bytes] = 0xFF
    write_gguf(path, {}, [(spec, bad)])
    report = validate_file(path, "deep")
    (issue,) = (issue for issue in report.issues if issue.code == "GGUF-DATA-NAN")
    assert issue.message.startswith("2 ")
    assert issue.message.endswith("the first is 17")
    assert issue.offset == report.header.data_offset + 17 * type.type_size
    assert GgufFile.open(path).data[issue.offset : issue.offset + type.type_size].any()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_weights_that_are_no_numbers_are_found(tmp_path: Path, value: float) -> None:
    weights = np.ones(64, np.float32)
    weights[5] = value
    write_gguf(tmp_path / "a.gguf", {}, [(TensorSpec("t", (64,), QuantType.F32), weights)])
    report = validate_file(tmp_path / "a.gguf", "deep")
    assert "1 of its weights is infinite or no number, the first is 5" in report.issues[-1].message


def test_big_endian_data_is_scanned_as_such(tmp_path: Path) -> None:
    spec = TensorSpec("t", (64,), QuantType.F16)
    # 0x007C is a tiny number; read high byte last it would be an infinity
    write_gguf(tmp_path / "a.gguf", {}, [(spec, np.full(64, 0x7C00, ">u2"))], byte_order="big")
    assert "GGUF-DATA-NAN" in {i.code for i in validate_file(tmp_path / "a.gguf", "deep").issues}
    write_gguf(tmp_path / "a.gguf", {}, [(spec, np.full(64, 0x7C00, "<u2"))], byte_order="big")
    assert "GGUF-DATA-NAN" not in {
        i.code for i in validate_file(tmp_path / "a.gguf", "deep").issues
    }


def test_the_parts_of_a_cut_file_are_still_scanned(tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "a.gguf", TINY)
    os.truncate(path, path.stat().st_size - 1000)
    assert [issue.code for issue in validate_file(path, "deep").issues] == ["GGUF-TENSOR-BOUNDS"]
