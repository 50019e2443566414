"""Checkpoints in safetensors: of repositories, converted, and run as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gguf_hub.cli.models import resolve_model
from gguf_hub.conversions import kept_folder, note_of
from gguf_hub.errors import CheckpointError, RemoteFileNotFoundError
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import QuantType
from gguf_hub.progress import SILENT
from tests.hub_server import HubServer
from tests.run.convert import checkpoints, packing
from tests.run.convert.test_ranks import tekken

REPO = "TheBloke/Tiny-Mixtral-GPTQ"
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A GPTQ checkpoint of a Mixtral."""
    packing.write(
        tmp_path / "source",
        lambda prefix, q: packing.gptq(prefix, q, 4),
        GPTQ,
        lambda shape, seed: packing.quantised(shape, 4, 32, 8, seed),
        **checkpoints.MIXTURE,
    )
    (tmp_path / "source" / "tokenizer.model").write_bytes(checkpoints.tokenizer_model())
    return tmp_path / "source"


@pytest.fixture
def server(hub_server: HubServer, folder: Path) -> HubServer:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub_server.add_repo(REPO, {**files, "README.md": b"# a model", "original/x.pth": b"pickled"})
    hub_server.add_repo("org/pickled", {"config.json": b"{}", "pytorch_model.bin": b"x"})
    return hub_server


def test_a_repository_is_downloaded_verified_and_converted(
    server: HubServer, tmp_path: Path, gguf_hub
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    code, out, err = gguf_hub("convert", REPO, target, "--json")
    facts = json.loads(out)
    assert (code, facts["type"]) == (0, "Q4_0"), err
    file = GgufFile.open(target / "Tiny-Mixtral-GPTQ.Q4_0.gguf")
    assert file.metadata["general.name"] == "Tiny-Mixtral-GPTQ"
    assert file.tensors["blk.1.ffn_up_exps.weight"].type is QuantType.Q4_0
    fetched = [
        path for _, path in ((r.method, r.path) for r in server.requests) if "README" in path
    ]
    assert fetched == []


def test_a_repository_whose_vocabulary_is_tekken_json_alone(
    hub_server: HubServer, tmp_path: Path, gguf_hub
) -> None:
    source = checkpoints.write(tmp_path / "source", vocab_size=261)
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    vocabulary = json.dumps(tekken([bytes([byte]) for byte in range(256)])).encode()
    files |= {"tekken.json": vocabulary, "consolidated.safetensors": b"Mistral's own"}
    hub_server.add_repo("mistralai/Tiny", files)
    code, _, err = gguf_hub("convert", "mistralai/Tiny", tmp_path / "out.gguf")
    assert (code, "--chat-template mistral-v7-tekken" in err) == (0, True), err
    assert GgufFile.open(tmp_path / "out.gguf").metadata["tokenizer.ggml.pre"] == "tekken"
    assert not any("consolidated" in r.path for r in hub_server.requests)


def test_a_repository_without_a_checkpoint_says_so(
    server: HubServer, tmp_path: Path, gguf_hub
) -> None:
    code, _, err = gguf_hub("convert", "org/pickled", tmp_path)
    assert (code, "has no checkpoint in safetensors" in err) == (1, True)


def test_a_folder_runs_after_it_was_converted_once(folder: Path) -> None:
    path = resolve_model(str(folder), progress=SILENT)
    assert path.is_relative_to(kept_folder())
    assert GgufFile.open(path).metadata["general.name"] == "source"
    before = path.stat().st_mtime_ns
    assert resolve_model(str(folder), progress=SILENT) == path
    assert path.stat().st_mtime_ns == before
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 7e4}))
    changed = resolve_model(str(folder), progress=SILENT)
    assert GgufFile.open(changed).metadata["llama.rope.freq_base"] == 7e4


def test_a_repository_runs_after_it_was_converted_once(server: HubServer) -> None:
    path = resolve_model(REPO, progress=SILENT)
    assert path.parent == kept_folder()
    assert path.name.startswith("Tiny-Mixtral-GPTQ.Q4_0.")
    assert resolve_model(REPO, progress=SILENT) == path
    other = resolve_model(f"{REPO}:Q8_0", progress=SILENT)
    assert GgufFile.open(other).tensors["blk.0.attn_q.weight"].type is QuantType.Q8_0


def test_what_has_no_checkpoint_either_is_refused_as_before(server: HubServer) -> None:
    for argument in ("org/pickled", f"{REPO}:Q4_K_M"):
        with pytest.raises(RemoteFileNotFoundError, match=r"no GGUF file|no quant"):
            resolve_model(argument, progress=SILENT)


def test_a_question_is_asked_once_and_no_is_an_answer(
    folder: Path, gguf_hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.confirm", lambda text, **_: asked.append(text) or False)
    code, out, err = gguf_hub("run", folder, "-p", "a", "-n", "1")
    assert (code, out, asked) == (1, "", ["Convert it?"])
    assert "it has to be converted, once, to Q4_0" in err
    assert "nothing was converted" in err
    assert not list(kept_folder().rglob("*.gguf"))


def test_nothing_is_left_of_a_conversion_that_failed(folder: Path) -> None:
    tensors = packing.gptq("x", packing.quantised((64, 64), 4, 32, 8, 0), 4)
    (folder / "model.safetensors").unlink()
    packing.save(folder, tensors, json.loads((folder / "config.json").read_text()))
    with pytest.raises(CheckpointError):
        resolve_model(str(folder), progress=SILENT)
    assert not list(kept_folder().rglob("*.gguf*"))


def kept_files() -> list[Path]:
    return sorted(kept_folder().iterdir())


@pytest.mark.slow
def test_conversions_are_listed_and_removed(server: HubServer, folder: Path, gguf_hub) -> None:
    theirs = resolve_model(REPO, progress=SILENT)
    mine = resolve_model(str(folder), progress=SILENT)
    files = json.loads(gguf_hub("ls", "--json")[1])["files"]
    rows = {row["path"]: row for row in files if row["path"].endswith(".gguf")}
    assert {path: row["converted_from"] for path, row in rows.items()} == {
        str(theirs): REPO, str(mine): str(folder.resolve())
    }  # fmt: skip
    assert rows[str(mine)]["quant"] == "Q4_0"
    assert rows[str(mine)]["size_bytes"] == mine.stat().st_size
    assert f"converted from {REPO}" in gguf_hub("ls")[1]
    total_bytes = json.loads(gguf_hub("du", "--json")[1])["total_bytes"]
    assert total_bytes == sum(file["size_bytes"] for file in files)

    code, _, err = gguf_hub("rm", "-y", mine)
    assert code == 0, err
    assert kept_files() == [theirs, note_of(theirs)]
    assert gguf_hub("rm", "-y", REPO)[0] == 0
    assert kept_files() == []
    assert (folder / "model.safetensors").exists()


def test_a_cleanup_removes_only_conversions_that_another_one_replaced(
    folder: Path, gguf_hub
) -> None:
    def convert(**changes: object) -> Path:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))
        return resolve_model(str(folder), progress=SILENT)

    def leftovers(*options: str) -> list[tuple[str, str]]:
        report = json.loads(gguf_hub("gc", "--json", *options)[1])
        return [(each["kind"], each["path"]) for each in report["leftovers"]]

    first = convert()
    config = (folder / "config.json").read_text()
    changed = config.replace("20000.0", "30000.0")
    assert changed != config
    (folder / "config.json").write_text(changed)
    assert leftovers() == []  # changed, not converted again yet
    second, third = convert(rope_theta=4e4), convert(rope_theta=5e4)
    second.write_bytes(second.read_bytes() + b"somebody's")
    assert leftovers() == [("conversion", str(first))]
    assert leftovers("-y") == [("conversion", str(first))]
    assert kept_files() == sorted(
        each for path in (second, third) for each in (path, note_of(path))
    )
    third.unlink()
    assert leftovers("-y") == [("note", str(note_of(third)))]

    fourth, fifth = convert(rope_theta=6e4), convert(rope_theta=7e4)
    (folder / "model.safetensors").unlink()
    assert leftovers("-y") == []  # what is left of the model
    assert {fourth, fifth} <= set(kept_files())


def test_a_note_that_is_no_note_is_passed_over(folder: Path, gguf_hub) -> None:
    path = resolve_model(str(folder), progress=SILENT)
    for text in ("", "[]", "{}", '{"checkpoint": 1, "outtype": 2, "size_bytes": 3, "mtime_ns": 4}'):
        note_of(path).write_text(text)
        (row,) = json.loads(gguf_hub("ls", "--json")[1])["files"]
        assert (row["path"], row["converted_from"]) == (str(path), None)
        assert json.loads(gguf_hub("gc", "--json")[1])["leftovers"] == []
    assert resolve_model(str(folder), progress=SILENT) == path
