"""What a model argument means."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gguf_hub.errors import GgufHubError, ModelNotFoundError, UsageError
from gguf_hub.hub.catalog import load_catalog
from gguf_hub.hub.download.plan import FileSelector
from gguf_hub.hub.download.refs import Target, parse_ref

CATALOG = load_catalog()
HF = "https://huggingface.co"
R = "TheBloke/Mixtral-8x7B-v0.1-GGUF"


def named(repo_id: str, filename: str, revision: str | None = None) -> Target:
    return Target(repo_id, FileSelector(filenames=(filename,)), revision)


def quant(repo_id: str, quant: str | None = None, revision: str | None = None) -> Target:
    return Target(repo_id, FileSelector(quant=quant), revision)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Q4_K_M", named(R, "mixtral-8x7b-v0.1.Q4_K_M.gguf")),
        ("q4_k_m", named(R, "mixtral-8x7b-v0.1.Q4_K_M.gguf")),
        ("Mixtral-8x7B-v0.1.Q2_K.gguf", named(R, "mixtral-8x7b-v0.1.Q2_K.gguf")),
        (f"{R}:Q4_K_M", quant(R, "Q4_K_M")),
        (f"{R}", quant(R)),
        (f"{R}@v1.0:Q2_K", quant(R, "Q2_K", "v1.0")),
        (f"{R}:Q2_K@refs/pr/2", quant(R, "Q2_K", "refs/pr/2")),
        (f"{R}@dev", quant(R, None, "dev")),
        (f"{R}/m.gguf", named(R, "m.gguf")),
        (f"{R}/sub/m.gguf", named(R, "sub/m.gguf")),
        (f"{R}/m.gguf@v2", named(R, "m.gguf", "v2")),
        (f"hf://{R}/m.gguf", named(R, "m.gguf")),
        (f"hf://{R}@v2/sub/m.gguf", named(R, "sub/m.gguf", "v2")),
        (f"hf://{R}@refs%2Fpr%2F1/m.gguf", named(R, "m.gguf", "refs/pr/1")),
        (f"hf://{R}:Q4_0", quant(R, "Q4_0")),
        (f"{HF}/{R}/resolve/main/m.gguf?download=true", named(R, "m.gguf")),
        (f"{HF}/{R}/blob/v1/sub/m%20x.gguf", named(R, "sub/m x.gguf", "v1")),
        (f"{HF}/{R}/blob/refs%2Fpr%2F1/m.gguf", named(R, "m.gguf", "refs/pr/1")),
        (f"{HF}/{R}", quant(R)),
        (f"{HF}/{R}/tree/v1", quant(R, None, "v1")),
        (f"{HF}/{R}/tree/main/UD%20Q4/x", named(R, "UD Q4/x/")),
        (f"https://hf.co/{R}/tree/v1/sub", named(R, "sub/", "v1")),
        (f"{HF}/{R}?show_file_info=m.Q4_0.gguf", named(R, "m.Q4_0.gguf")),
        ("http://mirror:80/o/r/resolve/main/m.gguf", named("o/r", "m.gguf")),
        (f"hf.co/{R}", quant(R)),
        (f"hf.co/{R}:Q4_0", quant(R, "Q4_0")),
        (f"huggingface.co/{R}/", quant(R)),
        (f"WWW.HuggingFace.co/{R}/blob/main/m.gguf", named(R, "m.gguf")),
        ("mirror:80/o/r:Q4_0", quant("o/r", "Q4_0")),
        ("http://mirror:80/o/r:Q4_0", quant("o/r", "Q4_0")),
        (f"{HF}/{R}:Q4_0", quant(R, "Q4_0")),
        (f"https://hf.co/{R}:Q4_0@v1", quant(R, "Q4_0", "v1")),
        (f"{HF}/{R}/sub/m.gguf", named(R, "sub/m.gguf")),
        (f"{HF}/{R}/commit/{'a' * 40}", quant(R, None, "a" * 40)),
        (f"{HF}/{R}/commits/main", quant(R)),
        (f"{R}/", quant(R)),
        (f" \t{R}:Q4_0\n", quant(R, "Q4_0")),
        (f"<{HF}/{R}>", quant(R)),
        (f"< {R}/m.gguf >", named(R, "m.gguf")),
        (f"{R}/config.json", named(R, "config.json")),
        (f"{R}/.gitattributes", named(R, ".gitattributes")),
        (f"{R}/sub/imatrix.dat@v2", named(R, "sub/imatrix.dat", "v2")),
        (f"hf://{R}@v2/config.json", named(R, "config.json", "v2")),
        (f"{R}@feature/a.b", quant(R, None, "feature/a.b")),
    ],
)
def test_forms_of_a_model_argument(text: str, expected: Target) -> None:
    assert parse_ref(text, CATALOG, endpoint="http://mirror:80") == expected


@pytest.mark.parametrize("text", ["m.gguf", "o/r/m.gguf", "Q4_K_M", "o/r:Q4_0"])
def test_a_local_file_always_wins(text: str) -> None:
    Path(text).parent.mkdir(parents=True, exist_ok=True)
    Path(text).write_bytes(b"")
    assert parse_ref(text, CATALOG) == Path(text)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("mixtrol.gguf", ModelNotFoundError, ["no such file", "`mixtral.gguf`", "gguf-hub list"]),
        ("models/m.gguf", ModelNotFoundError, ["no model `models/m.gguf`"]),
        ("/tmp/no/such/m.gguf", ModelNotFoundError, ["no such file"]),
        ("./a/b/c.gguf", ModelNotFoundError, ["no such file"]),
        ("~/no/such/m.gguf", ModelNotFoundError, ["no such file"]),
        (r"C:\models\m.gguf", ModelNotFoundError, ["no such file"]),
        ("folder", ModelNotFoundError, ["is a folder", "inside.gguf"]),
        ("empty", ModelNotFoundError, ["is a folder", "no GGUF file"]),
        ("Q4_K_L", ModelNotFoundError, ["no quant `Q4_K_L`", "`Q4_K_M`", "org/repo:Q4_K_L"]),
        ("", ModelNotFoundError, ["is a folder"]),
        ("x" * 5000, ModelNotFoundError, ["no such file"]),
        ("a\0b", ModelNotFoundError, ["no such file"]),
        ("hf://nothing", ModelNotFoundError, ["no such file"]),
        ("https://example.com/o/r/resolve/main/m.gguf", UsageError, ["not a link to a model"]),
        ("https://huggingface.co/models", UsageError, ["not a link to a model"]),
        ("https://[::1/o/r", UsageError, ["`https:` is not a link"]),
        (f"{HF}/o/r/discussions/3", UsageError, ["is a discussion of `o/r`", "refs/pr/3"]),
        ("hf.co/o/r/discussions", UsageError, ["is a discussion of `o/r`", "are `o/r`"]),
        (f"{HF}/o/r/settings", UsageError, ["is a page of `o/r`", "as `o/r`"]),
        (f"{HF}/datasets/a/b", UsageError, ["is a dataset", "as `org/repo`"]),
        (f"{HF}/datasets/a/b/blob/main/x.json", UsageError, ["is a dataset"]),
        ("datasets/a/b", UsageError, ["is a dataset"]),
        ("hf://spaces/a/b", UsageError, ["is a Space"]),
        (f"{HF}/api/models/o/r", UsageError, ["the hub's API", "as `o/r`"]),
        (f"{HF}/collections/o/x-12", UsageError, ["is a collection"]),
        ("folder/sub/notes.txt", ModelNotFoundError, ["no such file"]),
        ("folder/sub/", ModelNotFoundError, ["is a folder"]),
        ("o/r/v0.1", ModelNotFoundError, ["no such file"]),
        ("https://me:pw@evil.org/o/r?sig=1", UsageError, ["`https://evil.org/o/r` is not a link"]),
    ],
)
def test_what_is_no_model_is_explained(
    text: str, error: type[GgufHubError], words: list[str]
) -> None:
    Path("mixtral.gguf").write_bytes(b"")
    Path("folder/sub").mkdir(parents=True)
    Path("folder/inside.gguf").write_bytes(b"")
    Path("empty").mkdir()
    with pytest.raises(error) as caught:
        parse_ref(text, CATALOG)
    found = f"{caught.value.message}\n{caught.value.hint}"
    assert [word for word in words if word not in found] == []


@pytest.mark.parametrize("name", ["d.gguf", "folder/sub/d.gguf"])
def test_a_link_that_leads_nowhere_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    Path(name).symlink_to("nowhere")
    with pytest.raises(ModelNotFoundError, match="is a link to `nowhere`, which is not there"):
        parse_ref(name, CATALOG)


def test_a_link_to_itself_is_named(tmp_path: Path) -> None:
    link = tmp_path / "d.gguf"
    link.symlink_to(link)
    with pytest.raises(ModelNotFoundError, match="is a link to"):
        parse_ref(str(link), CATALOG)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_no_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.gguf")
    with pytest.raises(ModelNotFoundError, match="is a pipe or a device"):
        parse_ref(str(tmp_path / "m.gguf"), CATALOG)
