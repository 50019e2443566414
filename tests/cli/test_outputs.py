"""No command writes over what it reads, or over what is no file, under whatever name."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_hub.errors import UsageError
from gguf_hub.files import require_distinct
from gguf_hub.gguf.shard_names import shard_path
from gguf_hub.gguf.shards import plan_split, write_shards
from tests.hub_server import HubServer
from tests.run.convert import checkpoints
from tests.synth import TINY, write_mixtral

Run = Callable[..., tuple[int, str, str]]

NAMES = ["itself", "another way", "link", "hard link"]
if sys.platform in ("darwin", "win32"):
    NAMES.append("another case")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_mixtral(tmp_path / "model.gguf", TINY)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every name below a folder, with what it holds."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def called(path: Path, name: str) -> Path:
    """Return another name of a file."""
    other = path.with_name(f"other-{path.name}")
    if name == "link":
        other.symlink_to(path)
    elif name == "hard link":
        other.hardlink_to(path)
    elif name == "another way":
        (path.parent / "sub").mkdir(exist_ok=True)
        return path.parent / "sub" / ".." / path.name
    return {"itself": path, "another case": path.with_name(path.name.upper())}.get(name, other)


def refused(gguf_hub: Run, folder: Path, *line: object) -> str:
    """Run a command that must touch nothing; return what it says."""
    before = contents(folder)
    code, out, err = gguf_hub(*line)
    assert (code, out) == (2, ""), err
    assert contents(folder) == before
    return err


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "line",
    [
        ("quantize", "IN", "OUT", "Q8_0", "-f"),
        ("upgrade", "IN", "OUT", "-f"),
        ("edit", "IN", "--set", "general.name=another name", "-o", "OUT", "-f"),
    ],
    ids=lambda line: line[0],
)
def test_an_output_is_no_input(
    gguf_hub: Run, model: Path, tmp_path: Path, line: tuple[str, ...], name: str
) -> None:
    words = {"IN": model, "OUT": called(model, name)}
    err = refused(gguf_hub, tmp_path, *(words.get(word, word) for word in line))
    assert str(words["OUT"]) in err
    assert "input" in err


def test_an_edit_does_not_write_over_the_text_that_it_reads(
    gguf_hub: Run, model: Path, tmp_path: Path
) -> None:
    text = tmp_path / "template.jinja"
    text.write_text("{{ messages }}")
    line = ("edit", model, "--set-file", f"tokenizer.chat_template={text}", "-o", text, "-f")
    assert str(text) in refused(gguf_hub, tmp_path, *line)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", [0, 1])
def test_a_merge_does_not_write_over_a_shard(
    gguf_hub: Run, model: Path, tmp_path: Path, name: str, which: int
) -> None:
    shards = write_shards(tmp_path / "m", plan_split(model, max_tensors=30))
    out = called(shards[which], name)
    assert str(out) in refused(gguf_hub, tmp_path, "merge", shards[0], out, "-f")


@pytest.mark.parametrize("kind", ["itself", "link", "hard link"])
@pytest.mark.parametrize("which", [0, 1])
def test_a_split_does_not_write_over_its_source(
    gguf_hub: Run, model: Path, tmp_path: Path, kind: str, which: int
) -> None:
    taken = shard_path(tmp_path / "m", which, 2)
    source = model
    if kind == "itself":
        source = model.rename(taken)
    elif kind == "link":
        taken.symlink_to(model)
    else:
        taken.hardlink_to(model)
    line = ("split", "-f", source, tmp_path / "m", "--max-tensors", 30)
    assert str(taken) in refused(gguf_hub, tmp_path, *line)
    shards = plan_split(source, max_tensors=30)
    with pytest.raises(UsageError, match="input"):
        write_shards(tmp_path / "m", shards)
    assert taken.samefile(source)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_conversion_does_not_write_into_its_checkpoint(
    gguf_hub: Run, tmp_path: Path, name: str
) -> None:
    folder = checkpoints.write(tmp_path / "my-model", **checkpoints.MIXTURE)
    (folder / "tokenizer.model").write_bytes(checkpoints.tokenizer_model())
    assert (folder / name).is_file()
    assert name in refused(gguf_hub, tmp_path, "convert", folder, folder / name, "-f")


@pytest.mark.parametrize("name", ["file", "link to nothing"])
def test_what_is_there_needs_force(gguf_hub: Run, model: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"mine") if name == "file" else out.symlink_to("unmounted")
    before = contents(tmp_path)
    code, _, err = gguf_hub("quantize", model, out, "Q8_0")
    assert (code, "exists already" in err) == (1, True)
    assert contents(tmp_path) == before


@pytest.mark.skipif(os.name == "nt", reason="needs pipes")
@pytest.mark.parametrize("command", ["split", "upgrade", "merge", "quantize", "edit"])
def test_a_folder_that_is_not_there_is_named(
    gguf_hub: Run, model: Path, tmp_path: Path, command: str
) -> None:
    target = tmp_path / "none" / "out.gguf"
    lines = {
        "split": ["split", model, target, "--max-tensors", 9],
        "upgrade": ["upgrade", model, target],
        "merge": [
            "merge",
            *write_shards(tmp_path / "s", plan_split(model, max_tensors=9))[:1],
            target,
        ],
        "quantize": ["quantize", model, target, "Q8_0"],
        "edit": ["edit", model, "-o", target, "--set", "general.name=x"],
    }
    code, out, err = gguf_hub(*lines[command])
    assert (code, out) == (1, "")
    assert f"there is no folder `{tmp_path / 'none'}`" in err
    assert f"`mkdir -p {tmp_path / 'none'}`" in err


def test_a_downloaded_set_is_merged_by_its_name(
    gguf_hub: Run, model: Path, tmp_path: Path, hub_server: HubServer
) -> None:
    shards = write_shards(tmp_path / "m.F32", plan_split(model, max_tensors=9))
    hub_server.add_repo("org/m", {path.name: path.read_bytes() for path in shards})
    assert gguf_hub("download", "org/m:F32")[0] == 0
    target = tmp_path / "whole.gguf"
    code, _, err = gguf_hub("merge", "org/m:F32", target)
    assert code == 0, err
    assert gguf_hub("verify", target)[0] == 0
    code, _, err = gguf_hub("merge", "org/m:Q4_0", tmp_path / "x.gguf")
    assert (code, "`org/m:Q4_0` is not on this machine" in err) == (1, True)


def test_a_pipe_is_not_replaced_by_a_file(gguf_hub: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    os.mkfifo(out)
    code, _, err = gguf_hub("quantize", model, out, "Q8_0", "-f")
    assert (code, "not a regular file" in err) == (1, True)
    assert out.is_fifo()


def test_a_forced_link_is_replaced_and_not_written_through(
    gguf_hub: Run, model: Path, tmp_path: Path
) -> None:
    precious, out = tmp_path / "precious", tmp_path / "out.gguf"
    precious.write_bytes(b"precious")
    for link in (out.symlink_to, out.hardlink_to):
        link(precious)
        code, _, err = gguf_hub("edit", model, "--set", "general.name=n", "-o", out, "-f")
        assert code == 0, err
        assert precious.read_bytes() == b"precious"
        out.unlink()


def test_files_that_are_not_there_are_no_inputs(tmp_path: Path) -> None:
    require_distinct([tmp_path / "a"], [tmp_path / "a", tmp_path / "b"])
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    require_distinct([tmp_path / "a"], [tmp_path / "b"])
    with pytest.raises(UsageError, match="is the input itself"):
        require_distinct([tmp_path / "a"], [tmp_path / "b", tmp_path / "a"])
