"""``gguf-hub convert`` from the outside."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import QuantType
from tests.run.convert import checkpoints


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = checkpoints.write(tmp_path / "my-model", **checkpoints.MIXTURE)
    (folder / "tokenizer.model").write_bytes(checkpoints.tokenizer_model())
    return folder


def test_a_folder_becomes_a_file(folder: Path, tmp_path: Path, gguf_hub) -> None:
    code, out, err = gguf_hub("convert", folder, tmp_path / "out.gguf", "--outtype", "f16")
    assert (code, out) == (0, f"{tmp_path / 'out.gguf'}\n")
    assert "written: 23 tensors" in err
    file = GgufFile.open(tmp_path / "out.gguf")
    assert file.tensors["blk.0.attn_q.weight"].type is QuantType.F16
    assert file.metadata["general.name"] == "my-model"
    assert gguf_hub("verify", tmp_path / "out.gguf")[0] == 0


def test_json_has_stable_keys(folder: Path, tmp_path: Path, gguf_hub) -> None:
    code, out, _ = gguf_hub("convert", folder, tmp_path, "--json", "--outtype", "Q8_0")
    facts = json.loads(out)
    assert (code, list(facts)) == (
        0,
        ["path", "is_written", "size_bytes", "type", "n_tensors", "n_weights", "notes"],
    )
    path = tmp_path / "my-model.Q8_0.gguf"
    assert (facts["path"], facts["type"], facts["is_written"]) == (str(path), "Q8_0", True)
    assert facts["size_bytes"] == path.stat().st_size


def test_a_dry_run_writes_nothing(folder: Path, tmp_path: Path, gguf_hub) -> None:
    code, out, err = gguf_hub("convert", folder, tmp_path / "out.gguf", "--dry-run")
    assert (code, out) == (0, "")
    assert "would be written: 23 tensors" in err
    assert not (tmp_path / "out.gguf").exists()


def test_an_existing_file_is_kept_unless_told(folder: Path, tmp_path: Path, gguf_hub) -> None:
    target = tmp_path / "out.gguf"
    target.write_text("precious")
    code, out, err = gguf_hub("convert", folder, target)
    assert (code, out) == (1, "")
    assert "exists already" in err
    assert target.read_text() == "precious"
    assert gguf_hub("convert", folder, target, "--force")[0] == 0
    assert GgufFile.open(target).metadata["llama.expert_count"] == 4


def test_vocabulary_and_weights_can_be_taken_apart(folder: Path, tmp_path: Path, gguf_hub) -> None:
    assert gguf_hub("convert", folder, tmp_path, "--vocab-only")[0] == 0
    vocab = GgufFile.open(tmp_path / "my-model.vocab.gguf")
    assert (len(vocab.tensors), len(vocab.metadata["tokenizer.ggml.tokens"])) == (0, 300)
    (folder / "tokenizer.model").unlink()
    code, _, err = gguf_hub("convert", folder, tmp_path)
    assert (code, "no `tokenizer.model`" in err, "--no-vocab" in err) == (1, True, True)
    assert gguf_hub("convert", folder, tmp_path, "--no-vocab", "--model-name", "M")[0] == 0
    weights = GgufFile.open(tmp_path / "my-model.F32.gguf")
    assert weights.metadata["tokenizer.ggml.model"] == "no_vocab"
    assert weights.metadata["general.name"] == "M"
    code, _, err = gguf_hub("convert", folder, tmp_path, "--no-vocab", "--vocab-only")
    assert (code, "leave nothing to write" in err) == (2, True)


def test_what_is_lost_is_said(folder: Path, tmp_path: Path, gguf_hub) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "sliding_window": 32}))
    _, _, err = gguf_hub("convert", folder, tmp_path / "out.gguf")
    assert "note: the sliding window of 32 tokens is not kept" in err


def test_an_absent_package_is_one_sentence(
    folder: Path, tmp_path: Path, gguf_hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    code, out, err = gguf_hub("convert", folder, tmp_path / "out.gguf")
    assert (code, out) == (1, "")
    assert err == (
        "error: converting needs the package `safetensors`, which is not installed\n\n"
        "hint: pip install 'gguf-hub[convert]'\n"
    )


@pytest.mark.parametrize("is_gguf", [True, False])
def test_a_file_in_place_of_a_folder_is_named(is_gguf: bool, gguf_hub, tmp_path: Path) -> None:
    path = tmp_path / "in.gguf"
    path.write_bytes(b"GGUF\x03\0\0\0" if is_gguf else b"{}")
    code, out, err = gguf_hub("convert", path, tmp_path / "out.gguf")
    assert (code, out) == (2, "")
    assert ("is a GGUF already" if is_gguf else "expected a folder with config.json") in err
    assert ("gguf-hub quantize" in err) is is_gguf
