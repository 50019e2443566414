"""A model in raw parts on a hub: one model in every command, and joined by ``merge``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hub_server import HubServer

REPO = "org/stories"
PARTS = ["m.F32.gguf.part1of2", "m.F32.gguf.part2of2"]

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def whole(data: Path) -> Path:
    return data / "models" / "stories260K.f32.gguf"


@pytest.fixture
def server(hub_server: HubServer, whole: Path) -> HubServer:
    data = whole.read_bytes()
    half = len(data) // 2
    files = dict(zip(PARTS, (data[:half], data[half:]), strict=True))
    files |= {"m.Q9.txt": b"hi", "config.json": b"{}", "imatrix.dat": b"12345678"}
    hub_server.add_repo(REPO, files)
    return hub_server


@pytest.mark.slow
def test_from_the_hub_to_a_running_model(
    gguf_hub: Cli, server: HubServer, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (row,) = json.loads(gguf_hub("list", REPO, "--json")[1])["files"]
    assert (row["quant"], row["filenames"]) == ("F32", PARTS)
    picked = json.loads(gguf_hub("pick", REPO, "--json")[1])
    assert [row["quant"] for row in picked["files"]] == ["F32"]
    assert picked["commands"][1] == f'gguf-hub merge "$(gguf-hub path {REPO}:F32)" m.F32.gguf'
    assert picked["commands"][2].startswith("gguf-hub run m.F32.gguf ")
    assert json.loads(gguf_hub("inspect", f"{REPO}:F32", "--json")[1])["verdict"] == "sound"

    code, out, err = gguf_hub("download", f"{REPO}:F32")
    assert code == 0, err
    paths = [Path(line) for line in out.splitlines()]
    assert [path.name for path in paths] == PARTS
    listed = json.loads(gguf_hub("ls", "--json")[1])["files"]
    assert [(row["filename"], row["quant"]) for row in listed] == [(p, "F32") for p in PARTS]
    rows = json.loads(gguf_hub("verify", str(paths[1]), "--json")[1])["files"]
    assert [(row["path"], row["verdict"]) for row in rows] == [
        (str(path), "verified") for path in paths
    ]

    code, _, refusal = gguf_hub("run", f"{REPO}:F32", "-p", "hi")
    assert code == 1
    command = f"gguf-hub merge {shlex.quote(str(paths[0]))} m.F32.gguf"
    assert f"`{command}`" in refusal and f"`{command}`" in err
    code, out, err = gguf_hub(*shlex.split(command)[1:])
    assert (code, out) == (0, "m.F32.gguf\n"), err
    assert Path("m.F32.gguf").read_bytes() == whole.read_bytes()
    assert all(path.is_file() for path in paths)
    assert gguf_hub(*shlex.split(command)[1:])[0] == 1  # no overwriting without --force

    code, out, err = gguf_hub("rm", str(paths[0]), "-y")
    assert (code, out.splitlines()) == (0, [str(path) for path in paths]), err


def test_what_was_fetched_is_verified_whatever_it_is(
    gguf_hub: Cli, server: HubServer, tmp_path: Path
) -> None:
    names = ["config.json", "imatrix.dat", PARTS[1]]
    code, _, err = gguf_hub("download", REPO, *names, "--local-dir", tmp_path)
    assert code == 0, err
    for name in names:
        code, out, _ = gguf_hub("verify", tmp_path / name, "--json")
        assert [row["verdict"] for row in json.loads(out)["files"]][-1] == "verified", name
    (tmp_path / "imatrix.dat").write_bytes(b"12345679")
    code, out, _ = gguf_hub("verify", tmp_path / "imatrix.dat", "--json")
    assert (code, json.loads(out)["files"][0]["verdict"]) == (1, "not what the hub has")


def test_a_part_that_the_repository_lacks_is_named(gguf_hub: Cli, server: HubServer) -> None:
    server.add_repo(REPO, {PARTS[1]: b"x"})
    code, _, err = gguf_hub("download", f"{REPO}:F32")
    assert code == 1
    assert f"`{PARTS[0]}` is missing" in err
    assert server.body_requests() == []
