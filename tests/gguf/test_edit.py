from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_hub.errors import GgufError, GgufHubError, UsageError
from gguf_hub.gguf.edit import Edits, parse_value, plan_edit
from gguf_hub.gguf.format import Field, ValueType
from gguf_hub.gguf.journal import (
    SIGNATURE,
    Patch,
    apply_patches,
    is_unfinished,
    journal_name,
    recover,
)
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


def interrupt(path: Path, patches, monkeypatch) -> Path:
    """Begin to change a file and stop right before the first byte; return the journal."""
    with monkeypatch.context() as patch:
        patch.setattr("gguf_hub.gguf.journal._write_patches", lambda *_: Path("/none").stat())
        with pytest.raises(FileNotFoundError):
            apply_patches(path, patches)
    return journal_name(path)


@pytest.fixture
def begun(tmp_path: Path, monkeypatch) -> Path:
    """A file whose change was interrupted."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"0123456789")
    interrupt(path, [Patch(1, b"1", b"x"), Patch(5, b"56", b"yz")], monkeypatch)
    return path


def test_an_interrupted_change_is_finished(begun: Path) -> None:
    assert is_unfinished(begun)
    assert recover(begun)
    assert begun.read_bytes() == b"0x234yz789"
    assert not is_unfinished(begun)
    assert not journal_name(begun).exists()


def packed(told: object) -> bytes:
    """A journal whose signature and checksum are right, whatever it tells."""
    body = told if isinstance(told, bytes) else json.dumps(told).encode()
    return SIGNATURE + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


ROW = [1, b64(b"1"), b64(b"x")]


@pytest.mark.parametrize(
    "journal",
    [
        b"my notes about this model\n", b"", b"abc\n[[1", SIGNATURE,
        SIGNATURE + b"0" * 64 + b"\n[]",
        # without a signature, as before there was one
        hashlib.sha256(b"[[1]]").hexdigest().encode() + b"\n[[1]]",
        *map(packed, [b"no json", b"[" * 100_000, [], {}, 1, None, {"patches": 7}]),
    ],
    ids=range(13),
)  # fmt: skip
def test_what_is_no_journal_is_refused_and_stays(tmp_path: Path, journal: bytes) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"0123456789")
    journal_name(path).write_bytes(journal)
    for call in (recover, lambda path: apply_patches(path, [Patch(1, b"1", b"x")])):
        with pytest.raises(GgufError, match="is not the journal of") as caught:
            call(path)
        assert str(journal_name(path)) in str(caught.value.hint)
    assert not is_unfinished(path)
    assert (path.read_bytes(), journal_name(path).read_bytes()) == (b"0123456789", journal)


@pytest.mark.parametrize(
    "patches",
    [
        [], [[1]], [[-5, "", b64(b"xx")]], [[10**30, "", b64(b"x")]], [["x", 1, 2]],
        [[0, "", ""]], [[1.0, b64(b"1"), b64(b"x")]],
        [[3_000_000, "", b64(b"appended")]], [[1, b64(b"1"), b64(b"xy")]], [[1, "!", "!"]],
        [[9, b64(b"9z"), b64(b"xy")]], [[True, b64(b"1"), b64(b"x")]],
        [ROW, ROW], [[5, b64(b"5"), b64(b"x")], ROW], [[1, b64(b"2"), b64(b"x")]], {"a": 1}, [None],
    ],
    ids=range(17),
)  # fmt: skip
def test_a_crafted_journal_changes_nothing(begun: Path, patches: object) -> None:
    journal = journal_name(begun)
    told = json.loads(journal.read_bytes().partition(b"\n")[2])
    journal.write_bytes(packed(told | {"patches": patches}))
    with pytest.raises(GgufError, match="is not the journal of"):
        recover(begun)
    assert begun.read_bytes() == b"0123456789"
    assert journal.exists()


@settings(deadline=None)
@given(st.integers(0, 2**40), st.binary(max_size=4), st.binary(max_size=4), st.booleans())
def test_no_crafted_place_writes_beyond_the_file(
    tmp_path_factory: pytest.TempPathFactory, offset: int, old: bytes, new: bytes, near: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "crafted.bin"
    path.write_bytes(b"0" * 10)
    told = {"size_bytes": 10, "sha256": "", "patches": [[offset % 14 if near else offset,
            b64(old), b64(new)]]}  # fmt: skip
    journal_name(path).write_bytes(packed(told))
    with pytest.raises(GgufError, match="is not the journal of"):
        recover(path)
    assert path.read_bytes() == b"0" * 10


@pytest.mark.parametrize("change", ["longer", "shorter", "before", "between", "behind", "at"])
def test_the_journal_of_another_file_is_refused(begun: Path, change: str) -> None:
    data = bytearray(begun.read_bytes())
    if change in ("longer", "shorter"):
        data = data + b"!" if change == "longer" else data[:-1]
    else:
        data[{"before": 0, "between": 3, "behind": 8, "at": 5}[change]] ^= 0x55
    begun.write_bytes(data)
    with pytest.raises(GgufError, match="is not the journal of"):
        recover(begun)
    assert begun.read_bytes() == data
    assert journal_name(begun).exists()


@pytest.mark.skipif(os.name == "nt", reason="needs links and pipes of POSIX")
@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_a_journal_that_is_no_file_is_not_followed(begun: Path, kind: str) -> None:
    journal = journal_name(begun)
    real = journal.rename(begun.with_name("elsewhere"))
    if kind == "link":
        journal.symlink_to(real)
    elif kind == "folder":
        journal.mkdir()
    else:
        os.mkfifo(journal)
    with pytest.raises(GgufError, match="is not the journal of"):
        recover(begun)
    assert begun.read_bytes() == b"0123456789"
    assert os.path.lexists(journal)


def test_verify_tells_of_an_interrupted_edit_and_not_of_notes(model: Path, monkeypatch) -> None:
    patches = plan_edit(model, Edits({"llama.context_length": "4096"})).patches
    assert patches
    interrupt(model, patches, monkeypatch)
    (issue,) = validate_file(model).issues
    assert issue.code == "GGUF-EDIT-UNFINISHED"
    journal_name(model).write_text("my notes")
    assert validate_file(model).issues == ()


def test_the_command_leaves_notes_alone(gguf_hub, model: Path) -> None:
    before, notes = model.read_bytes(), journal_name(model)
    notes.write_text("my notes about this model\n")
    for edit in ("llama.context_length=64", "general.name=a longer name than it has"):
        code, out, err = gguf_hub("edit", model, "--set", edit)
        assert (code, out) == (1, "")
        assert f"move `{notes}` elsewhere" in err
    assert (model.read_bytes(), notes.read_text()) == (before, "my notes about this model\n")
    out_path = model.with_name("out.gguf")
    line = ("edit", model, "--set", "llama.context_length=64", "-o", out_path)
    assert gguf_hub(*line)[0] == 0
    assert gguf_hub("edit", model, "--set", "llama.context_length=64", "--dry-run")[0] == 0


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
    interrupt(model, patches, monkeypatch)
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
