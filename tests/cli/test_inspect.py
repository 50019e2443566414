"""``gguf-hub inspect`` as people and programs call it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.errors import HubError, HubUnreachableError
from gguf_hub.gguf.compat import compatibility
from gguf_hub.gguf.format import Field, TensorSpec, ValueType
from gguf_hub.gguf.inspection import inspect
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.writer import write_gguf
from gguf_hub.hub.client import HfHub
from gguf_hub.hub.client.ranges import HubRanges, ReadBudget
from gguf_hub.hub.store import Store, StoredFile
from tests.hub_server import Fault, HubServer
from tests.synth import TINY, Shape, metadata, tensors, write_mixtral

# as many tensors and tokens as Mixtral has, at the least width
NARROW = Shape(n_embd=32, n_head=4, n_head_kv=2, n_ff=32)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_mixtral(tmp_path / "tiny.gguf", TINY)


def inspected(gguf_hub, *args: object) -> dict[str, Any]:
    code, out, err = gguf_hub("inspect", "--json", *args)
    assert (code, err) == (0, "")
    return json.loads(out)


def test_summary_of_the_full_mixtral(gguf_hub, tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "mixtral.Q4_K_M.gguf", Shape(), recipe="Q4_K_M", sparse=True)
    data = inspected(gguf_hub, path)
    # 46.7 B and 12.9 B are the numbers of the model's makers
    assert data["n_params"] == 46_702_792_704
    assert data["n_params_active"] == 12_879_925_248
    assert data["data_bytes"] == 26_440_753_152
    assert (data["file_type"], data["layout"], data["n_tensors"]) == ("Q4_K_M", "split", 995)
    assert (data["n_expert"], data["n_expert_used"], data["n_ctx_train"]) == (8, 2, 32768)
    for shares in (data["types"], data["parts"]):
        assert sum(share["n_params"] for share in shares) == data["n_params"]
        assert sum(share["size_bytes"] for share in shares) == data["data_bytes"]
    assert [share["n_tensors"] for share in data["parts"]] == [1, 128, 768, 1, 97]
    loads = {loader["name"]: loader["loads"] for loader in data["compatibility"]}
    assert loads == {
        "gguf-hub": True, "llama.cpp since October 2024": False, "llama.cpp before": True,
    }  # fmt: skip
    assert data["remedy"] == f"gguf-hub upgrade {path} {tmp_path}/mixtral.Q4_K_M.upgraded.gguf"


def test_summary_for_people(gguf_hub, model: Path) -> None:
    code, out, err = gguf_hub("inspect", model)
    assert (code, err) == (0, "")
    for words in ("llama", "active per token", "one tensor per expert", "300 tokens", "experts",
                  "llama.cpp since October 2024  no", "gguf-hub upgrade"):  # fmt: skip
        assert words in out


def test_metadata_shortens_long_arrays_unless_asked(gguf_hub, model: Path) -> None:
    code, out, _ = gguf_hub("inspect", model, "--metadata")
    assert code == 0
    assert "array of string" in out
    assert "(300)" in out
    assert "w10" not in out
    assert "1e-05" in out
    assert "w10" in gguf_hub("inspect", model, "--metadata", "--full")[1]
    fields = inspected(gguf_hub, model, "--metadata")["metadata"]
    assert fields["tokenizer.ggml.tokens"]["length"] == 300
    assert len(fields["tokenizer.ggml.tokens"]["value"]) == 8
    assert fields["llama.block_count"] == {"type": "uint32", "value": 2}
    fields = inspected(gguf_hub, model, "--metadata", "--full")["metadata"]
    assert len(fields["tokenizer.ggml.scores"]["value"]) == 300


@pytest.mark.parametrize(
    ("args", "count"),
    [
        (["--tensors"], 41), (["--tensors", "*ffn_gate.3.*"], 2), (["--tensors", "output*"], 2),
        (["--tensors=blk.0.attn_?.weight"], 3),
    ],
)  # fmt: skip
def test_tensors_are_chosen_by_a_glob(gguf_hub, model: Path, args: list[str], count: int) -> None:
    rows = inspected(gguf_hub, model, *args)["tensors"]
    assert len(rows) == count
    assert set(rows[0]) == {"name", "shape", "type", "size_bytes", "offset"}
    lines = gguf_hub("inspect", model, *args)[1].splitlines()
    assert len(lines) == count + 2


def test_the_glob_may_be_left_out_before_the_file(gguf_hub, model: Path) -> None:
    assert gguf_hub("inspect", "--tensors", model) == gguf_hub("inspect", model, "--tensors")
    code, _, err = gguf_hub("inspect", model, "--tensors", "none*")
    assert (code, "no tensor matches `none*`" in err) == (0, True)


def test_text_of_a_file_cannot_steer_the_terminal(gguf_hub, tmp_path: Path) -> None:
    evil = "\x1b[2J\udcffname"
    fields = {**metadata(TINY), "general.name": Field.of(evil), "x.\x1bkey": Field.of(float("inf"))}
    path = tmp_path / "a.gguf"
    write_gguf(path, fields, [(TensorSpec("\x1b]0;t", (1,), QuantType.F32), b"\0\0\0\0")])
    for args in ([], ["--metadata"], ["--tensors"]):
        _, out, err = gguf_hub("inspect", path, *args)
        assert "\x1b" not in out + err
        assert "\\x1b" in out
    _, out, _ = gguf_hub("inspect", path, "--json", "--metadata")
    assert "\x1b" not in out
    data = json.loads(out)
    assert data["metadata"]["general.name"]["value"] == "\x1b[2J\N{REPLACEMENT CHARACTER}name"
    assert data["metadata"]["x.\\x1bkey"]["value"] == "inf"


def test_a_cut_file_is_shown_with_what_is_missing(gguf_hub, model: Path) -> None:
    os.truncate(model, model.stat().st_size - 4000)
    code, out, err = gguf_hub("inspect", model)
    assert code == 1
    assert "4,000 bytes are missing" in err
    assert "GGUF-TENSOR-BOUNDS" in err
    assert "parameters" in out
    assert "fix" not in out  # nobody knows what to download again
    Store().add(StoredFile.of(model, "0" * 64, repo_id="org/name", filename=model.name))
    folder = model.parent
    out = gguf_hub("inspect", model)[1]
    assert f"gguf-hub download org/name {model.name} --local-dir {folder}" in out
    code, out, _ = gguf_hub("inspect", model, "--json")
    assert (code, json.loads(out)["verdict"]) == (1, "damaged")


@pytest.mark.parametrize("raw", [b"", b"<html>", b"GGUF\3\0\0\0"])
def test_what_is_no_gguf_is_one_line_and_a_hint(gguf_hub, tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(raw)
    code, out, err = gguf_hub("inspect", path)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: `{path}`")
    assert "hint:" in err


def test_a_model_that_is_nowhere(gguf_hub, tmp_path: Path) -> None:
    code, out, err = gguf_hub("inspect", tmp_path / "none.gguf")
    assert (code, out) == (1, "")
    assert "none.gguf" in err
    code, _, err = gguf_hub("inspect")
    assert code == 2
    assert "missing argument" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    "argument",
    ["org/mix:Q8_0", "org/mix/mix.Q8_0.gguf", "hf://org/mix/mix.Q8_0.gguf", "org/mix@main:q8_0"],
)
def test_a_remote_header_costs_one_or_two_ranges(
    gguf_hub, tmp_path: Path, hub_server: HubServer, argument: str
) -> None:
    path = write_mixtral(tmp_path / "mix.Q8_0.gguf", NARROW, recipe="F32")
    raw = path.read_bytes()
    hub_server.add_repo("org/mix", {"mix.Q8_0.gguf": raw, "other.Q2_K.gguf": b"GGUF"})
    data = inspected(gguf_hub, argument)
    assert data["path"] == "org/mix/mix.Q8_0.gguf"
    assert (data["n_tensors"], data["n_vocab"]) == (995, 32000)
    assert {**data, "path": "", "remedy": ""} == {
        **inspected(gguf_hub, path), "path": "", "remedy": "",
    }  # fmt: skip
    ranged = hub_server.body_requests()
    assert 1 <= len(ranged) <= 2
    assert sum(request.sent_bytes for request in ranged) <= 2_000_000


def test_a_range_that_comes_short_is_no_damage(hub_server: HubServer) -> None:
    hub_server.add_repo("org/mix", {"a.gguf": bytes(100)})
    hub = HfHub(retry_waits_s=())
    metadata = replace(hub.file_metadata("org/mix", "a.gguf"), size_bytes=None)
    hub_server.faults.append(Fault("GET", "*", ends_after=9, headers={"Content-Length": None}))
    with pytest.raises(HubUnreachableError, match=r"`a\.gguf`: 9 of 10 bytes"):
        HubRanges(hub, metadata, 100).read(0, 10)
    hub_server.faults[:] = [Fault("GET", "*", status=503)]
    with pytest.raises(HubUnreachableError, match=r"`a\.gguf`: .* answers 503"):
        HubRanges(hub, metadata, 100).read(0, 10)


def test_files_of_one_question_share_what_may_be_read(hub_server: HubServer) -> None:
    hub_server.add_repo("org/mix", {"a.gguf": bytes(100), "b.gguf": bytes(100)})
    hub, budget = HfHub(), ReadBudget(150, hint="read less")
    first, second = (
        HubRanges(hub, hub.file_metadata("org/mix", name), 100, budget)
        for name in ("a.gguf", "b.gguf")
    )
    assert len(first.read(0, 100)) == 100
    assert len(second.read(0, 50)) == 50
    with pytest.raises(HubError, match="headers of `org/mix` are longer than"):
        second.read(50, 50)
    assert len(hub_server.body_requests()) == 2


def test_a_quant_that_the_hub_does_not_have(gguf_hub, hub_server: HubServer) -> None:
    hub_server.add_repo("org/mix", {"mix.Q8_0.gguf": b"GGUF"})
    code, out, err = gguf_hub("inspect", "org/mix:Q7_K")
    assert (code, out) == (1, "")
    assert "no quant `Q7_K`" in err
    assert "Q8_0" in err


# -- who loads what --------------------------------------------------------------------------


def loads(path: Path) -> list[tuple[bool | None, str]]:
    found = inspect(path.read_bytes(), str(path))
    return [(loader.loads, loader.reason) for loader in found.compatibility.loaders]


def remedy(path: Path) -> str:
    return inspect(path.read_bytes(), str(path)).compatibility.remedy


def test_merged_experts_load_everywhere_since_april_2024(tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "a.gguf", TINY, layout="merged")
    assert [yes for yes, _ in loads(path)] == [True, True, True]
    assert "April 2024" in loads(path)[2][1]
    assert remedy(path) == ""


@pytest.mark.parametrize(("version", "byte_order"), [(1, "little"), (3, "big"), (1, "big")])
def test_old_versions_and_byte_orders_want_an_upgrade(
    tmp_path: Path, version: int, byte_order: str
) -> None:
    path = write_mixtral(tmp_path / "a.gguf", TINY, version=version, byte_order=byte_order)
    assert [yes for yes, _ in loads(path)][1:] == [False, False]
    assert loads(path)[0][0] == (byte_order == "little")
    assert remedy(path) == "upgrade"


@pytest.mark.parametrize(
    ("type", "expected"),
    [
        (QuantType.Q4_K, [True, True, True]), (QuantType.IQ4_XS, [True, True, True]),
        (QuantType.MXFP4, [True, True, False]),
    ],
)  # fmt: skip
def test_tensor_types_decide(tmp_path: Path, type: QuantType, expected: list[bool]) -> None:
    shape = Shape(n_layer=1, n_embd=256, n_head=4, n_head_kv=2, n_ff=256, n_expert=0, n_vocab=260)
    specs = [
        TensorSpec(s.name, s.shape, type if "attn_q" in s.name else s.type)
        for s in tensors(shape, "merged", "F32")
    ]
    from gguf_hub.gguf.format import tensor_size_bytes

    path = tmp_path / "a.gguf"
    write_gguf(path, metadata(shape),
               [(s, bytes(tensor_size_bytes(s.shape, s.type))) for s in specs])  # fmt: skip
    assert [yes for yes, _ in loads(path)] == expected


def test_shards_other_architectures_and_vocabularies(tmp_path: Path) -> None:
    shard = {"split.no": Field(ValueType.UINT16, 1), "split.count": Field(ValueType.UINT16, 3),
             "split.tensors.count": Field(ValueType.INT32, 37)}  # fmt: skip
    path = write_mixtral(tmp_path / "a.gguf", TINY, fields=shard)
    found = inspect(path.read_bytes(), "a")
    assert found.summary.shard == (2, 3)
    assert found.compatibility.loaders[0].reason == "only together with the other shards"
    assert found.compatibility.remedy == ""
    fields = {**metadata(TINY), "general.architecture": Field.of("squirrel")}
    write_gguf(path, fields, [(TensorSpec("x", (1,), QuantType.F32), bytes(4))])
    assert [yes for yes, _ in loads(path)] == [False, None, None]
    write_gguf(path, metadata(TINY), [])
    assert loads(path)[0] == (False, "a vocabulary, not a model")
    found = inspect(path.read_bytes(), "a")
    assert found.summary.bits_per_weight is None
    assert compatibility(found.summary, (), ()).remedy == ""


def test_shards_are_added_up(gguf_hub, model: Path, tmp_path: Path) -> None:
    gguf_hub("split", model, tmp_path / "part", "--max-tensors", 15)
    shards = [tmp_path / f"part-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    whole, data = inspected(gguf_hub, model), inspected(gguf_hub, shards[1])
    for key in ("n_params", "n_params_active", "data_bytes", "types", "parts", "n_tensors"):
        assert data[key] == whole[key], key
    assert data["n_shards"] == 3
    assert data["size_bytes"] == sum(path.stat().st_size for path in shards)
    assert data["remedy"] == f"gguf-hub upgrade {shards[0]} {tmp_path / 'part.upgraded.gguf'}"
    assert [loader["loads"] for loader in data["compatibility"]] == [True, False, True]
    assert "3 shards" in gguf_hub("inspect", shards[2])[1]
    (row,) = inspected(gguf_hub, shards[0], "--tensors", "output.weight")["tensors"]
    raw, last = GgufFile.open(model), shards[2].read_bytes()
    start, end = row["offset"], row["offset"] + row["size_bytes"]
    assert last[start:end] == raw.tensor_bytes("output.weight").tobytes()
    shards[1].unlink()
    code, out, err = gguf_hub("inspect", shards[2])
    assert (code, "part-00002-of-00003.gguf" in err) == (1, True)
    assert "2 shards" in out
    os.truncate(shards[2], 30)
    assert gguf_hub("inspect", shards[0])[0] == 1


def test_numbers_per_block_and_a_tokenizer_of_another_kind(tmp_path: Path, gguf_hub) -> None:
    fields = {
        "llama.attention.head_count_kv": Field.of(np.array([2, 2], np.int32)),
        "tokenizer.ggml.model": Field.of("rwkv"),
        "general.license": Field.of("apache-2.0"),
        "tokenizer.chat_template": Field.of("{{ messages }}"),
        "llama.rope.scaling.type": Field.of("yarn"),
        "general.file_type": Field.of(999),
    }
    path = write_mixtral(tmp_path / "a.gguf", TINY, layout="merged", fields=fields)
    assert loads(path)[0] == (
        False,
        "tokenizer `rwkv`, expected `llama`, `gpt2`, `gemma4`, `whitespace`, `bert` or `t5`",
    )
    summary = inspect(path.read_bytes(), "a").summary
    assert (summary.n_head_kv, summary.file_type) == (2, "type 999")
    _, out, _ = gguf_hub("inspect", path)
    for words in ("apache-2.0", "chat template  yes", "yarn scaling"):
        assert words in out


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
@pytest.mark.parametrize("command", ["inspect", "verify", "upgrade", "split"])
def test_nobody_waits_for_a_pipe(command: str, gguf_hub, tmp_path: Path) -> None:
    pipe = tmp_path / "m.gguf"
    os.mkfifo(pipe)
    rest = {"upgrade": ["out.gguf"], "split": ["out"]}.get(command, [])
    code, out, err = gguf_hub(command, pipe, *rest)
    assert (code, out) == (1, "")
    assert "is a pipe" in err
