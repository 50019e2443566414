"""A model is lent to another program without a copy, and taken back without a trace."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_hub.cli.local.share import KEYS
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.hub.programs.folders import PROGRAMS
from gguf_hub.hub.programs.go_templates import FORMATS, GoFormat, format_of
from gguf_hub.hub.programs.placing import Kind, place
from gguf_hub.hub.programs.record import ShareRecord
from gguf_hub.hub.store import Store, StoredFile
from tests.hub.programs.folders import ollama_model, put_blob

Cli = Callable[..., tuple[int, str, str]]
FOLDERS = {
    "ollama": ".ollama/models",
    "lmstudio": ".lmstudio/models",
    "webui": "text-generation-webui/user_data/models",
    "jan": ".local/share/Jan/data",
    "gpt4all": ".local/share/nomic.ai/GPT4All",
    "koboldcpp": "kobold",
}


@pytest.fixture(autouse=True)
def no_shared_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run on file systems that share blocks and on others: here none does."""

    def refuse(*args: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("fcntl.ioctl", refuse)


@pytest.fixture
def model(tmp_path: Path, embedded: Path) -> Path:
    path = tmp_path / "mine" / "tiny-mixtral.f16.gguf"
    path.parent.mkdir()
    path.write_bytes(embedded.read_bytes())
    return path


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.delenv("OLLAMA_MODELS")
    folders = {key: tmp_path / "home" / folder for key, folder in FOLDERS.items()}
    for folder in folders.values():
        folder.mkdir(parents=True)
    return folders


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every name below a folder, with the file's number and content."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_ino,
            b"" if path.is_dir() else path.read_bytes(),
        )
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize("key", FOLDERS)
def test_a_model_is_lent_and_taken_back_without_a_trace(
    key: str, folders: dict[str, Path], model: Path, gguf_hub: Cli
) -> None:
    folder = folders[key]
    ollama_model(folders["ollama"], "registry.ollama.ai/library/other/latest", b"other")
    (folder / "theirs.gguf").write_bytes(b"GGUF theirs")
    before, free = tree(folder), os.statvfs(folder).f_bfree
    extra = ["--folder", folder] if key == "koboldcpp" else []
    code, name, err = gguf_hub("share", model, "--with", key, *extra)
    assert code == 0, err
    assert "hard link" in err
    names = [p for p in folder.rglob("*") if p.is_file() and p.samefile(model)]
    assert len(names) == 1
    assert (free - os.statvfs(folder).f_bfree) * os.statvfs(folder).f_frsize < 4 << 20
    rows = json.loads(gguf_hub("ls", "--json")[1])["files"]
    assert [row["program"] for row in rows if name.strip() in row["names"]] == [key]
    code, _, err = gguf_hub("share", model, "--with", key, *extra)  # once more: nothing to do
    assert code == 0, err
    code, out, err = gguf_hub("share", model, "--with", key, "--remove")
    assert (code, out) == (0, f"{key}: {name}"), err
    assert tree(folder) == before
    assert model.is_file()
    assert gguf_hub("share", model, "--with", key, "--remove")[0] == 1


def test_ollama_gets_what_it_would_have_written_itself(
    folders: dict[str, Path], model: Path, gguf_hub: Cli
) -> None:
    folder = folders["ollama"]
    assert gguf_hub("share", model, "--with", "ollama", "--name", "tiny:f16")[0] == 0
    text = (folder / "manifests/registry.ollama.ai/library/tiny/f16").read_bytes()
    manifest = json.loads(text)
    assert text == json.dumps(manifest, separators=(",", ":")).encode() + b"\n"
    assert list(manifest) == ["schemaVersion", "mediaType", "config", "layers"]
    kinds = [layer["mediaType"].rpartition(".")[2] for layer in manifest["layers"]]
    assert kinds == ["model", "template", "params"]
    for part in (manifest["config"], *manifest["layers"]):
        blob = folder / "blobs" / part["digest"].replace(":", "-")
        assert blob.stat().st_size == part["size"]
        assert f"sha256:{hashlib.sha256(blob.read_bytes()).hexdigest()}" == part["digest"]
    config = (folder / "blobs" / manifest["config"]["digest"].replace(":", "-")).read_text()
    settings = json.loads(config)
    assert settings["model_format"] == "gguf"
    assert settings["model_family"] == "llama"
    assert settings["file_type"] == "F16"
    with GgufFile.open(model) as file:
        n_params = sum(tensor.n_elements for tensor in file.tensors.values())
    assert settings["model_type"] == f"{n_params / 1e6:.2f}M"
    digests = [layer["digest"] for layer in manifest["layers"]]
    assert settings["rootfs"] == {"type": "layers", "diff_ids": digests}
    params = (folder / "blobs" / digests[2].replace(":", "-")).read_bytes()
    assert params == rb'{"stop":["[INST]","[/INST]"]}' + b"\n"


def test_a_name_that_something_else_has_is_left_alone(
    folders: dict[str, Path], model: Path, gguf_hub: Cli
) -> None:
    taken = folders["webui"] / "tiny-mixtral.f16.gguf"
    taken.write_bytes(b"another model")
    ollama_model(folders["ollama"], "ollama.com/library/tiny/latest", b"x", tree="manifests-v2")
    for arguments in (("webui",), ("ollama", "--name", "tiny")):
        before = tree(folders[arguments[0]])
        code, _, err = gguf_hub("share", model, "--with", *arguments)
        assert code == 1
        assert "has something else called" in err
        assert "`--name` gives the model another name there" in err
        assert tree(folders[arguments[0]]) == before
    assert gguf_hub("share", model, "--with", "webui", "--name", "second")[0] == 0
    assert (folders["webui"] / "second.gguf").samefile(model)


def test_a_blob_that_ollama_has_already_is_its_own(
    folders: dict[str, Path], model: Path, gguf_hub: Cli
) -> None:
    blob, _ = put_blob(folders["ollama"], model.read_bytes())
    assert gguf_hub("share", model, "--with", "ollama", "--name", "tiny")[0] == 0
    assert not blob.samefile(model)
    assert gguf_hub("share", model, "--remove")[0] == 0
    assert blob.read_bytes() == model.read_bytes()


def test_a_blob_that_another_model_of_ollama_needs_by_now_stays(
    folders: dict[str, Path], model: Path, gguf_hub: Cli
) -> None:
    assert gguf_hub("share", model, "--with", "ollama", "--name", "tiny")[0] == 0
    library = folders["ollama"] / "manifests/registry.ollama.ai/library"
    (library / "copied").mkdir()
    (library / "copied/latest").write_bytes((library / "tiny/latest").read_bytes())  # `ollama cp`
    code, _, err = gguf_hub("share", "tiny:latest", "--remove")
    assert code == 0
    assert "another model needs it" in err
    assert not (library / "tiny").exists()
    assert gguf_hub("path", "copied")[0] == 0


def test_what_was_changed_since_is_not_taken_back(
    folders: dict[str, Path], model: Path, gguf_hub: Cli
) -> None:
    assert gguf_hub("share", model, "--with", "jan")[0] == 0
    home = folders["jan"] / "llamacpp/models/tiny-mixtral.f16"
    (home / "model.yml").write_text("name: mine\n")
    (home / "model.gguf").unlink()
    (home / "model.gguf").write_bytes(b"another")
    code, _, err = gguf_hub("share", model, "--remove")
    assert code == 0
    assert err.count("stays") == 2
    assert (home / "model.yml").read_text() == "name: mine\n"
    assert (home / "model.gguf").read_bytes() == b"another"


def test_a_model_that_is_gone_can_still_be_taken_back(
    folders: dict[str, Path], model: Path, gguf_hub: Cli
) -> None:
    before = tree(folders["lmstudio"])
    assert gguf_hub("share", model, "--with", "lmstudio", "--name", "me/tiny")[0] == 0
    model.unlink()
    assert gguf_hub("share", model, "--remove")[0] == 0
    assert tree(folders["lmstudio"]) == before


def other_disk(*args: object, **options: object) -> None:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def test_on_another_disk_it_is_a_symbolic_link(
    folders: dict[str, Path], model: Path, gguf_hub: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.link", other_disk)
    code, _, err = gguf_hub("share", model, "--with", "gpt4all")
    assert code == 0
    assert "symbolic link" in err
    link = folders["gpt4all"] / "tiny-mixtral.f16.gguf"
    assert link.readlink() == model
    Store().add(StoredFile.of(model, "0" * 64))  # `rm` removes what is on record
    code, _, err = gguf_hub("rm", "-y", model)
    assert code == 0
    assert "GPT4All loses `tiny-mixtral.f16.gguf`" in err
    assert gguf_hub("share", "tiny-mixtral.f16.gguf", "--remove")[0] == 0
    assert not os.path.lexists(link)


def test_a_second_copy_is_made_only_where_it_was_asked_for(
    folders: dict[str, Path], model: Path, gguf_hub: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.link", other_disk)
    monkeypatch.setattr("os.symlink", other_disk)  # as on Windows without the right to
    before = tree(folders["webui"])
    code, _, err = gguf_hub("share", model, "--with", "webui")
    assert code == 1
    assert "symbolic link: invalid cross-device link" in err
    assert "`--copy` makes a second copy" in err
    assert tree(folders["webui"]) == before
    code, _, err = gguf_hub("share", model, "--with", "webui", "--copy")
    assert code == 0
    assert "(copy)" in err
    copied = folders["webui"] / "tiny-mixtral.f16.gguf"
    assert copied.read_bytes() == model.read_bytes()
    assert gguf_hub("share", model, "--remove")[0] == 0
    assert tree(folders["webui"]) == before


def test_blocks_are_shared_first(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clone(target: int, request: int, source: int) -> int:
        assert request == 0x40049409  # FICLONE
        os.write(target, os.pread(source, 1 << 30, 0))
        return 0

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("fcntl.ioctl", clone)
    target = tmp_path / "clone.gguf"
    assert place(model, target, may_copy=False) is Kind.REFLINK
    assert target.read_bytes() == model.read_bytes()
    assert not target.samefile(model)
    assert [p.name for p in tmp_path.glob("clone*")] == ["clone.gguf"]


def test_a_full_disk_leaves_nothing_behind(
    folders: dict[str, Path], model: Path, gguf_hub: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(folders["ollama"])

    def full(path: Path) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("gguf_hub.hub.programs.sharing.create", full)
    code, _, err = gguf_hub("share", model, "--with", "ollama")
    assert code == 1
    assert "the disk is full" in err
    assert tree(folders["ollama"]) == before
    assert ShareRecord().shares() == []


def test_shards_keep_their_names(
    folders: dict[str, Path], model: Path, gguf_hub: Cli, tmp_path: Path
) -> None:
    assert gguf_hub("split", model, tmp_path / "many", "--split-max-tensors", "20")[0] == 0
    first = sorted(tmp_path.glob("many-*.gguf"))[0]
    assert gguf_hub("share", first, "--with", "lmstudio")[0] == 0
    there = sorted(path.name for path in folders["lmstudio"].rglob("*.gguf"))
    assert there == sorted(path.name for path in tmp_path.glob("many-*.gguf"))
    for key in ("ollama", "jan"):
        code, _, err = gguf_hub("share", first, "--with", key)
        assert code == 2
        assert "`gguf-hub merge` makes one of them" in err


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["MODEL"], 2, "name the program: --with ollama"),
        (["MODEL", "--with", "koboldcpp"], 2, "no folder for models"),
        (["MODEL", "--with", "webui", "--folder", "nowhere"], 2, "`nowhere` is no folder"),
        (["MODEL", "--with", "webui", "--name", "../x"], 2, "cannot be the name of a file"),
        (["MODEL", "--with", "lmstudio", "--name", "x"], 2, "PUBLISHER/NAME"),
        (["MODEL", "--with", "jan", "--template", "x"], 2, "--template is for --with ollama"),
        (["MODEL", "--with", "ollama", "--template", "x"], 1, "cannot read `x`"),
        (["missing.gguf", "--with", "webui"], 1, "no such file"),
        (["TEXT", "--with", "webui"], 1, "is no sound GGUF"),
        (["--with", "ollama"], 2, "missing argument"),
        (["missing", "--remove"], 1, "is not shared"),
    ],
    ids=range(11),
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], code: int, text: str, folders: dict[str, Path], model: Path,
    tmp_path: Path, gguf_hub: Cli, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.gguf").write_text("no model")
    stands_for = {"MODEL": str(model), "TEXT": "text.gguf"}
    found, _, err = gguf_hub("share", *(stands_for.get(word, word) for word in arguments))
    assert (found, "Traceback" in err) == (code, False), err
    assert text.lower() in err.lower()
    assert [path for key in FOLDERS for path in folders[key].rglob("*") if path.is_file()] == []


def test_a_record_that_cannot_be_read_is_not_overwritten(
    folders: dict[str, Path], model: Path, gguf_hub: Cli
) -> None:
    assert gguf_hub("share", model, "--with", "webui")[0] == 0
    path = next(Path(os.environ["GGUF_HUB_HOME"]).rglob("shared.json"))
    path.write_text("{")
    assert gguf_hub("ls")[0] == 0  # what is on this machine is listed all the same
    for arguments in ((), (model, "--with", "jan"), (model, "--remove")):
        code, _, err = gguf_hub("share", *arguments)
        assert code == 1
        assert "cannot be read" in err
    assert path.read_text() == "{"


def test_the_command_knows_every_program() -> None:
    assert [program.key for program in PROGRAMS] == list(KEYS) == list(FOLDERS)


def test_a_shared_folder_is_known_from_then_on(
    folders: dict[str, Path], model: Path, gguf_hub: Cli
) -> None:
    kobold = folders["koboldcpp"]
    assert gguf_hub("share", model, "--with", "koboldcpp", "--folder", kobold)[0] == 0
    (kobold / "another.gguf").write_bytes(b"GGUF")
    assert gguf_hub("path", "another")[1] == f"{kobold}/another.gguf\n"


@pytest.mark.parametrize("format_", FORMATS, ids=lambda each: each.name)
def test_templates_are_known_by_their_marks(format_: GoFormat) -> None:
    shown = format_.template
    assert shown.count("{{ if") == shown.count("{{ end }}")
    assert shown.index("{{ .Prompt }}") < shown.index("{{ .Response }}")
    text = "{% for m in messages %}" + format_.template + "{% endfor %}"
    found = format_of(text)
    assert found is format_
    assert format_of("<|channel|>" + text) is None
