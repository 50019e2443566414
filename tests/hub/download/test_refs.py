"""What a model argument means."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguf_hub.errors import GgufHubError, ModelNotFoundError, UsageError
from gguf_hub.hub.download.refs import (
    CatalogQuant,
    LocalFile,
    ModelRef,
    RepoFile,
    RepoQuant,
    parse_ref,
)

CATALOG = {
    "Q2_K": "mixtral-8x7b-v0.1.Q2_K.gguf",
    "Q4_K_M": "mixtral-8x7b-v0.1.Q4_K_M.gguf",
    "Q5_K_M": "mixtral-8x7b-v0.1.Q5_K_M.gguf",
}
HF = "https://huggingface.co"
R = "TheBloke/Mixtral-8x7B-v0.1-GGUF"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Q4_K_M", CatalogQuant("Q4_K_M")),
        ("q4_k_m", CatalogQuant("Q4_K_M")),
        ("Mixtral-8x7B-v0.1.Q2_K.gguf", CatalogQuant("Q2_K")),
        (f"{R}:Q4_K_M", RepoQuant(R, "Q4_K_M", None)),
        (f"{R}", RepoQuant(R, None, None)),
        (f"{R}@v1.0:Q2_K", RepoQuant(R, "Q2_K", "v1.0")),
        (f"{R}:Q2_K@refs/pr/2", RepoQuant(R, "Q2_K", "refs/pr/2")),
        (f"{R}@dev", RepoQuant(R, None, "dev")),
        (f"{R}/m.gguf", RepoFile(R, "m.gguf", None)),
        (f"{R}/sub/m.gguf", RepoFile(R, "sub/m.gguf", None)),
        (f"{R}/m.gguf@v2", RepoFile(R, "m.gguf", "v2")),
        (f"hf://{R}/m.gguf", RepoFile(R, "m.gguf", None)),
        (f"hf://{R}@v2/sub/m.gguf", RepoFile(R, "sub/m.gguf", "v2")),
        (f"hf://{R}@refs%2Fpr%2F1/m.gguf", RepoFile(R, "m.gguf", "refs/pr/1")),
        (f"hf://{R}:Q4_0", RepoQuant(R, "Q4_0", None)),
        (f"{HF}/{R}/resolve/main/m.gguf?download=true", RepoFile(R, "m.gguf", "main")),
        (f"{HF}/{R}/blob/v1/sub/m%20x.gguf", RepoFile(R, "sub/m x.gguf", "v1")),
        (f"{HF}/{R}/blob/refs%2Fpr%2F1/m.gguf", RepoFile(R, "m.gguf", "refs/pr/1")),
        (f"{HF}/{R}", RepoQuant(R, None, None)),
        (f"{HF}/{R}/tree/v1", RepoQuant(R, None, "v1")),
        (f"{HF}/{R}?show_file_info=m.Q4_0.gguf", RepoFile(R, "m.Q4_0.gguf", None)),
        ("http://mirror:80/o/r/resolve/main/m.gguf", RepoFile("o/r", "m.gguf", "main")),
    ],
)
def test_forms_of_a_model_argument(text: str, expected: ModelRef) -> None:
    assert parse_ref(text, catalog=CATALOG, endpoint="http://mirror:80") == expected


@pytest.mark.parametrize("text", ["m.gguf", "o/r/m.gguf", "Q4_K_M", "o/r:Q4_0"])
def test_a_local_file_always_wins(text: str) -> None:
    Path(text).parent.mkdir(parents=True, exist_ok=True)
    Path(text).write_bytes(b"")
    assert parse_ref(text, catalog=CATALOG) == LocalFile(Path(text))


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
        ("https://example.com/o/r/resolve/main/m.gguf", UsageError, ["no link to a model"]),
        ("https://huggingface.co/models", UsageError, ["no link to a model"]),
    ],
)
def test_what_is_no_model_is_explained(
    text: str, error: type[GgufHubError], words: list[str]
) -> None:
    Path("mixtral.gguf").write_bytes(b"")
    Path("folder").mkdir()
    Path("folder/inside.gguf").write_bytes(b"")
    Path("empty").mkdir()
    with pytest.raises(error) as caught:
        parse_ref(text, catalog=CATALOG)
    found = f"{caught.value.message}\n{caught.value.hint}"
    assert [word for word in words if word not in found] == []
