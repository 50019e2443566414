from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from gguf_hub.errors import GgufError, GgufHubError, UsageError
from gguf_hub.gguf.edit import Edits, parse_value, plan_edit
from gguf_hub.gguf.format import Field, ValueType
from gguf_hub.gguf.journal import Patch, apply_patches, journal_name, recover
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.validate import validate_file
from tests.synth import TINY, write_mixtral


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_mixtral(tmp_path / "model.gguf", TINY)


def contents(path: Path) -> tuple[dict[str, Field], dict[str, bytes]]:
    file = GgufFile.open(path)
    return dict(file.fields), {name: file.tensor_bytes(name).tobytes() for name in file.tensors}


def inode(path: Path) -> int:
    return path.stat().st_ino


@pytest.mark.parametrize(
    ("values", "renamed"),
    [
        ({"llama.context_length": "4096"}, {}),
        ({"llama.rope.freq_base": "500000", "tokenizer.ggml.add_bos_token": "false"}, {}),
        ({"general.name": "synthetiC"}, {}),
        ({}, {"output_norm.weight": "OUTPUT_NORM.WEIGHT"}),
    ],
)
def test_what_keeps_its_length_changes_in_place(
    model: Path, values: dict[str, str], renamed: dict[str, str]
) -> None:
    fields, data = contents(model)
    before, number = model.read_bytes(), inode(model)
    plan = plan_edit(model, Edits(values, (), renamed))
    assert plan.patches
    assert sum(len(patch.new) for patch in plan.patches) <= 40
    apply_patches(model, plan.patches)
    assert inode(model) == number
    assert model.stat().st_size == len(before)
    new_fields, new_data = contents(model)
    assert {k for k in fields if fields[k] != new_fields[k]} == set(values)
    assert [renamed.get(name, name) for name in data] == list(new_data)
    assert list(data.values()) == list(new_data.values())
    # and the file is what writing it anew would have made
    plan.rewrite.write(model.with_name("anew.gguf"))
    assert model.with_name("anew.gguf").read_bytes() == model.read_bytes()


@pytest.mark.parametrize(
    "edits",
    [
        Edits({"general.name": "a longer name than before"}),
        Edits({"general.license": "apache-2.0"}),
        Edits({"my.own:float64": "0.25"}),
        Edits({}, ["general.name"]),
        Edits({"general.alignment": "64"}),
        Edits(
            {"tokenizer.ggml.bos_token_id": "2"}, ["general.name"], {"output.weight": "output.w"}
        ),
        Edits({"llama.attention.head_count_kv:array of int32": "[2, 2]"}),
        Edits({"general.tags": '["a", "b"]'}),
    ],
    ids=lambda edits: " ".join([*edits.values, *edits.removed, *edits.renamed]),
)
def test_anything_else_writes_the_file_anew(model: Path, edits: Edits) -> None:
    fields, data = contents(model)
    plan = plan_edit(model, edits)
    assert plan.patches is None
    plan.rewrite.write(model, compare=True)
    new_fields, new_data = contents(model)
    assert list(new_data.values()) == list(data.values())
    changed = {key.partition(":")[0] for key in edits.values} | set(edits.removed)
    assert {k for k in {*fields, *new_fields} if fields.get(k) != new_fields.get(k)} == changed


def test_nothing_to_change_is_no_change(model: Path) -> None:
    plan = plan_edit(model, Edits({"llama.context_length": "128"}))
    assert (plan.changes, plan.patches) == ((), ())


@pytest.mark.parametrize(
    ("key", "text", "value", "type"),
    [
        ("llama.block_count", "0x10", 16, "uint32"),
        ("llama.rope.freq_base", "1e6", 1e6, "float32"),
        ("tokenizer.ggml.add_eos_token", "TRUE", True, "bool"),
        ("general.name", "5", "5", "string"),
        ("split.no", "3", 3, "uint16"),
        ("my.key:int8", "-5", -5, "int8"),
        ("my.key:array of bool", "[true, false]", [True, False], "array of bool"),
        ("general.tags", '["x"]', ["x"], "array of string"),
        ("tokenizer.ggml.scores", "[0.5, 1]", [0.5, 1.0], "array of float32"),
    ],
)
def test_texts_become_values_of_the_right_type(key: str, text: str, value, type: str) -> None:
    name, _, kind = key.partition(":")
    field = parse_value(name, text, kind, None, "llama")
    assert field.type_name == type
    found = field.value
    assert (list(found) if isinstance(value, list) else found) == value


def test_the_type_that_a_key_has_is_kept() -> None:
    old = Field(ValueType.INT16, 3)
    assert parse_value("my.key", "4", "", old) == Field(ValueType.INT16, 4)
    heads = Field.of(np.array([2, 2], np.int32))
    new = parse_value("llama.attention.head_count_kv", "[1, 2]", "", heads, "llama")
    assert new.type_name == "array of int32"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("llama.block_count", "two"), ("llama.block_count", "-1"), ("llama.block_count", "1e9"),
        ("llama.block_count", str(2**32)), ("llama.rope.freq_base", "nan"),
        ("llama.rope.freq_base", "1e60"), ("tokenizer.ggml.add_bos_token", "maybe"),
        ("tokenizer.ggml.add_bos_token", "2"), ("my.key", "1"), ("my.key:squirrel", "1"),
        ("llama.block_count:uint64", "1"), ("general.tags", "x"), ("general.tags", '"x"'),
        ("general.tags", "[1]"), ("tokenizer.ggml.token_type", '["a"]'),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_refused(key: str, text: str) -> None:
    name, _, kind = key.partition(":")
    with pytest.raises(UsageError, match=rf"`{name}`"):
        parse_value(name, text, kind, None, "llama")


def test_keys_and_tensors_that_are_not_there(model: Path) -> None:
    with pytest.raises(GgufError, match="no key `none`"):
        plan_edit(model, Edits({}, ["none"]))
    with pytest.raises(GgufError, match="no tensor `none`"):
        plan_edit(model, Edits({}, (), {"none": "x"}))


@pytest.mark.parametrize("name", ["", "x" * 64, "a\0b", "output_norm.weight"])
def test_names_that_no_tensor_can_have(model: Path, name: str) -> None:
    with pytest.raises(UsageError):
        plan_edit(model, Edits({}, (), {"output.weight": name}))


def test_old_versions_become_three_when_written_anew(tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "a.gguf", TINY, version=2)
    assert plan_edit(path, Edits({"llama.context_length": "64"})).patches
    plan = plan_edit(path, Edits({"general.license": "mit"}))
    assert plan.changes[-1] == "version 2 becomes 3"
    path = write_mixtral(tmp_path / "a.gguf", TINY, byte_order="big")
    with pytest.raises(GgufError, match="big-endian"):
        plan_edit(path, Edits({"general.license": "mit"}))


# -- the journal -----------------------------------------------------------------------------


def test_a_journal_is_finished_once(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"0123456789")
    patches = [Patch(1, b"1", b"x"), Patch(5, b"56", b"yz")]
    apply_patches(path, patches)
    assert path.read_bytes() == b"0x234yz789"
    assert not recover(path)
    with pytest.raises(GgufError, match="changed while"):
        apply_patches(path, patches)
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_torn_journal_was_never_acted_on(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"0123456789")
    journal_name(path).write_bytes(b"abc\n[[1")
    assert not recover(path)
    assert path.read_bytes() == b"0123456789"
    assert not journal_name(path).exists()


def test_the_journal_of_another_file_is_refused(model: Path, monkeypatch) -> None:
    patches = plan_edit(model, Edits({"llama.context_length": "4096"})).patches
    assert patches
    monkeypatch.setattr("gguf_hub.gguf.journal._write_patches", lambda *_: Path("/none").stat())
    with pytest.raises(FileNotFoundError):
        apply_patches(model, patches)
    monkeypatch.undo()
    (issue,) = validate_file(model).issues
    assert issue.code == "GGUF-EDIT-UNFINISHED"
    raw = bytearray(model.read_bytes())
    raw[patches[0].offset] ^= 0x55
    model.write_bytes(raw)
    with pytest.raises(GgufError, match="is not the journal of"):
        recover(model)


# -- the command -----------------------------------------------------------------------------


def test_the_command_edits_in_place(gguf_hub, model: Path) -> None:
    code, out, err = gguf_hub("edit", model, "--set", "llama.context_length=64")
    assert (code, out) == (0, f"{model}\n")
    assert "`llama.context_length`: 128 -> 64 (uint32)" in err
    assert GgufFile.open(model).metadata["llama.context_length"] == 64
    code, out, err = gguf_hub("edit", model, "--set", "llama.context_length=64")
    assert (code, out, err) == (0, "", "nothing to change\n")


def test_the_command_writes_another_file(gguf_hub, model: Path, tmp_path: Path) -> None:
    before, out_path = model.read_bytes(), tmp_path / "out.gguf"
    (tmp_path / "template.jinja").write_text("{{ messages }}")
    args = ["--set-file", f"tokenizer.chat_template={tmp_path}/template.jinja", "--json"]
    code, out, _ = gguf_hub("edit", model, "-o", out_path, *args)
    assert code == 0
    assert json.loads(out)["in_place"] is False
    assert model.read_bytes() == before
    assert GgufFile.open(out_path).metadata["tokenizer.chat_template"] == "{{ messages }}"
    assert gguf_hub("edit", model, "-o", out_path, *args)[0] == 1


def test_a_dry_run_changes_nothing(gguf_hub, model: Path) -> None:
    before = model.read_bytes()
    code, out, err = gguf_hub("edit", model, "--unset", "general.name", "--dry-run")
    assert (code, out) == (0, "")
    assert err == "would change: `general.name` is removed\n"
    assert model.read_bytes() == before


def test_an_edit_that_damages_is_refused(gguf_hub, model: Path) -> None:
    before = model.read_bytes()
    code, _, err = gguf_hub("edit", model, "--set", "llama.block_count=0")
    assert code == 1
    assert "would be damaged: key `llama.block_count`" in err
    assert model.read_bytes() == before
    assert gguf_hub("edit", model, "--set", "llama.block_count=0", "--force")[0] == 0
    assert not validate_file(model).is_sound
    assert gguf_hub("edit", model, "--set", "llama.block_count=2")[0] == 0
    assert model.read_bytes() == before


def test_links_are_left_alone(gguf_hub, model: Path, tmp_path: Path) -> None:
    link, hard = tmp_path / "link.gguf", tmp_path / "hard.gguf"
    link.symlink_to(model)
    before = model.read_bytes()
    for args in (
        ["edit", link, "--set", "llama.context_length=64"],
        ["upgrade", link, "--in-place"],
    ):
        code, _, err = gguf_hub(*args)
        assert (code, "is a link" in err) == (1, True)
    hard.hardlink_to(model)
    code, _, err = gguf_hub("edit", hard, "--unset", "general.name")
    assert (code, "several names" in err) == (1, True)
    assert model.read_bytes() == before
    out = tmp_path / "out.gguf"
    assert gguf_hub("edit", link, "--set", "llama.context_length=64", "-o", out)[0] == 0


def test_an_interrupted_edit_is_finished_first(gguf_hub, model: Path, monkeypatch) -> None:
    patches = plan_edit(model, Edits({"llama.context_length": "4096"})).patches
    monkeypatch.setattr("gguf_hub.gguf.journal._write_patches", lambda *_: Path("/none").stat())
    with pytest.raises(FileNotFoundError):
        apply_patches(model, patches or ())
    monkeypatch.undo()
    code, out, err = gguf_hub("edit", model)
    assert (code, out) == (0, "")
    assert "finished an edit" in err
    assert GgufFile.open(model).metadata["llama.context_length"] == 4096


@pytest.mark.parametrize(
    "args",
    [[], ["--set", "x"], ["--set", "=1"], ["--rename-tensor", "a"], ["--set-file", "a=/none/x"]],
)
def test_bad_arguments_are_usage_errors(gguf_hub, model: Path, args: list[str]) -> None:
    code, out, err = gguf_hub("edit", model, *args)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")


def test_a_file_that_is_not_there(gguf_hub, tmp_path: Path) -> None:
    code, _, err = gguf_hub("edit", tmp_path / "none.gguf", "--unset", "a")
    assert (code, "no such file" in err) == (1, True)


def test_own_files_may_be_changed(model: Path) -> None:
    from gguf_hub.gguf.atomic import require_own

    require_own(model)
    with pytest.raises(GgufHubError):
        os.link(model, model.with_name("b.gguf"))
        require_own(model)
