"""Which models a router has, and by which names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gguf_hub.api.server.router.library import Library, UnknownModelError
from gguf_hub.hub.resolve import Resolver
from gguf_hub.hub.store import Store, StoredFile

MIXTRAL = "TheBloke/Mixtral-8x7B-v0.1-GGUF"


def add(
    folder: Path, stories: Path, filename: str, repo_id: str | None, commit: str | None = None
) -> Path:
    """Put a model on record."""
    path = folder / (commit or "x") / filename
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(stories, path)
    entry = StoredFile.of(path, "0" * 64, repo_id=repo_id, commit=commit, filename=filename)
    Store().add(entry)
    return path


@pytest.fixture
def library(stories: Path, tmp_path: Path) -> Library:
    folder = tmp_path / "models"
    add(folder, stories, "mixtral-8x7b-v0.1.Q4_K_M.gguf", MIXTRAL, "a" * 40)
    add(folder, stories, "big/m.UD-Q8_0-00001-of-00002.gguf", "org/Big-GGUF", "b" * 40)
    add(folder, stories, "big/m.UD-Q8_0-00002-of-00002.gguf", "org/Big-GGUF", "b" * 40)
    add(folder, stories, "one-7b.Q4_0.gguf", "org/two", "c" * 40)
    add(folder, stories, "one-13b.Q4_0.gguf", "org/two", "c" * 40)
    add(folder, stories, "mmproj-F16.gguf", "org/two", "c" * 40)
    add(folder, stories, "half-00001-of-00002.gguf", "org/half", "d" * 40)
    add(folder, stories, "mine.gguf", None)
    return Library(Resolver())


def test_models_have_short_names_that_no_other_has(library: Library) -> None:
    assert [model.name for model in library.models()] == [
        f"{MIXTRAL}:Q4_K_M",
        "org/Big-GGUF:UD-Q8_0",
        "org/two/one-13b.Q4_0.gguf",
        "org/two/one-7b.Q4_0.gguf",
        "mine",
    ]


def test_a_set_of_shards_is_one_model(library: Library, stories: Path) -> None:
    model = library.find("org/Big-GGUF:UD-Q8_0")
    assert model.path.name == "m.UD-Q8_0-00001-of-00002.gguf"
    assert model.size_bytes == 2 * stories.stat().st_size


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"{MIXTRAL}:Q4_K_M", f"{MIXTRAL}:Q4_K_M"),
        (f"{MIXTRAL}:q4_k_m".lower(), f"{MIXTRAL}:Q4_K_M"),
        (f"hf.co/{MIXTRAL}:Q4_K_M", f"{MIXTRAL}:Q4_K_M"),
        (f"huggingface.co/{MIXTRAL}", f"{MIXTRAL}:Q4_K_M"),
        ("Q4_K_M", f"{MIXTRAL}:Q4_K_M"),
        ("q4_k_m:latest", f"{MIXTRAL}:Q4_K_M"),
        ("mixtral-8x7b-v0.1.Q4_K_M.gguf", f"{MIXTRAL}:Q4_K_M"),
        ("mixtral-8x7b-v0.1.q4_k_m", f"{MIXTRAL}:Q4_K_M"),
        ("org/big-gguf:Q8_0", "org/Big-GGUF:UD-Q8_0"),
        ("org/Big-GGUF", "org/Big-GGUF:UD-Q8_0"),
        ("m.UD-Q8_0", "org/Big-GGUF:UD-Q8_0"),
        ("org/two/one-7b.Q4_0.gguf", "org/two/one-7b.Q4_0.gguf"),
        ("mine:latest", "mine"),
        ("Mine.gguf", "mine"),
    ],
)
def test_names_that_people_type(library: Library, name: str, expected: str) -> None:
    assert library.find(name).name == expected


def test_a_path_is_a_name_only_if_it_is_listed(library: Library, stories: Path) -> None:
    model = library.find("mine")
    assert library.find(str(model.path)) == model
    for name in (str(stories), f"../x/{model.path.name}", "/etc/passwd", ".", "", "~"):
        with pytest.raises(UnknownModelError):
            library.find(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpt-4o", "not found: this server has"),
        ("org/two:Q4_0", "several files have this name: this server has"),
        ("org/half", "not found"),
        ("mmproj-F16", "not found"),
        ("hf.co/datasets/x/y", "not found"),
        ("x" * 1000, "not found"),
        ("\ud800", "not found"),
        ("a\0b", "not found"),
    ],
)
def test_other_names_are_refused(library: Library, name: str, message: str) -> None:
    with pytest.raises(UnknownModelError, match=message):
        library.find(name)


def test_of_two_commits_the_newer_file_keeps_the_short_name(stories: Path, tmp_path: Path) -> None:
    import os

    old = add(tmp_path / "m", stories, "m.Q4_0.gguf", "org/m", "1" * 40)
    new = add(tmp_path / "m", stories, "m.Q4_0.gguf", "org/m", "2" * 40)
    os.utime(old, (1, 1))
    Store().add(StoredFile.of(old, "0" * 64, repo_id="org/m", commit="1" * 40,
                              filename="m.Q4_0.gguf"))  # fmt: skip
    library = Library(Resolver())
    assert {model.name: model.path for model in library.models()} == {
        "org/m:Q4_0": new,
        "org/m/m.Q4_0.gguf": old,
    }
    assert library.find("org/m").path == new
    assert library.find("org/m@1111111111:Q4_0").path == old


def test_a_new_file_is_found_and_a_vanished_one_is_not(
    library: Library, stories: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnknownModelError):
        library.find("later")
    path = add(tmp_path, stories, "later.gguf", None)
    assert library.find("later").path == path
    path.unlink()
    assert "later" not in [model.name for model in library.models(is_fresh=True)]


def test_named_models_are_the_only_ones(library: Library, stories: Path) -> None:
    fixed = Library(Resolver(), [("./story", stories)])
    assert [model.name for model in fixed.models()] == ["stories260K.f32"]
    assert fixed.find("./story").path == stories
    assert fixed.quants_to_download() == []
    with pytest.raises(UnknownModelError, match=r"this server has `stories260K\.f32`"):
        fixed.find("Q4_K_M")
    quants = [file.quant for file in library.quants_to_download()]
    assert "Q4_K_M" not in quants
    assert "Q2_K" in quants
