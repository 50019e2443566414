"""Finding and reading a catalog: the search order, and every problem told with its place."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_hub.errors import CatalogError
from gguf_hub.hub.catalog import find_catalog, load, load_catalog, parse_catalog
from gguf_hub.hub.catalog.checks import check_catalog
from tests.conftest import ROOT

PATH = Path("my.yaml")
TEXT = (ROOT / "catalog.yaml").read_text(encoding="utf-8")


TREE = yaml.safe_load(TEXT)


def tree() -> dict[str, Any]:
    """The built-in catalog as plain data, free to be spoiled."""
    data: dict[str, Any] = copy.deepcopy(TREE)
    return data


def minimal() -> dict[str, Any]:
    """The least that a user has to write: a dense model and one file."""
    shape = {"n_layer": 2, "n_embd": 64, "n_head": 4, "n_head_kv": 2, "head_dim": 16}
    shape |= {"n_ff": 128, "n_vocab": 512, "n_ctx_train": 256}
    files = [{"quant": "F16", "filename": "tiny.gguf", "size_bytes": 5000}]
    return {"repo_id": "me/tiny-GGUF", "architecture": shape, "files": files}


def issues_of(data: Any) -> tuple[str, ...]:
    """The problems that are told of a text or of plain data, or none."""
    issues: list[str] = []
    if not isinstance(data, str):
        check_catalog(data, issues)
        return tuple(issues)
    try:
        parse_catalog(data, PATH)
    except CatalogError as error:
        assert str(PATH) in error.message
        return error.issues
    return ()


# ---- where it is found -------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder laid out as a checkout or site-packages, into which the module is made to lie."""
    folder = tmp_path / "gguf_hub" / "hub" / "catalog"
    folder.mkdir(parents=True)
    monkeypatch.setattr(load, "__file__", str(folder / "load.py"))
    return tmp_path


def test_a_wheel_has_it_beside_the_code(installed: Path) -> None:
    shutil.copy(ROOT / "catalog.yaml", installed / "gguf_hub")
    assert load_catalog().path == installed / "gguf_hub" / "catalog.yaml"


def test_a_checkout_has_it_above_the_code(installed: Path) -> None:
    shutil.copy(ROOT / "catalog.yaml", installed)
    assert load_catalog().path == installed / "catalog.yaml"


def test_beside_the_code_wins_over_above(installed: Path) -> None:
    shutil.copy(ROOT / "catalog.yaml", installed)
    shutil.copy(ROOT / "catalog.yaml", installed / "gguf_hub")
    assert find_catalog() == installed / "gguf_hub" / "catalog.yaml"


def test_a_broken_installation_says_what_is_missing(installed: Path) -> None:
    with pytest.raises(CatalogError, match="cannot be read: no such file"):
        load_catalog()


def test_argument_wins_over_environment_wins_over_built_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, given_ = tmp_path / "named.yaml", tmp_path / "given.yaml"
    for path, repo_id in ((named, "me/named"), (given_, "me/given")):
        path.write_text(yaml.safe_dump(minimal() | {"repo_id": repo_id}), encoding="utf-8")
    assert load_catalog().repo_id.startswith("TheBloke/")
    monkeypatch.setenv("GGUF_HUB_CATALOG", str(named))
    assert load_catalog().repo_id == "me/named"
    assert load_catalog(given_).repo_id == "me/given"


# ---- what a user may write ---------------------------------------------------------------------


def test_defaults_fill_what_a_user_leaves_out() -> None:
    catalog = parse_catalog(yaml.safe_dump(minimal()), PATH)
    (file,) = catalog.files
    assert (catalog.revision, catalog.prompt_template) == ("main", "{prompt}")
    assert (catalog.architecture.n_expert, catalog.architecture.n_expert_used) == (0, 0)
    assert (file.recipe, file.perplexity, file.is_recommended) == (None, None, False)
    assert file.tensor_bytes == file.size_bytes == 5000
    assert catalog.path == PATH


def test_tensor_bytes_follow_from_a_recipe() -> None:
    data = tree()
    del data["files"][0]["tensor_bytes"]
    assert parse_catalog(yaml.safe_dump(data), PATH).files[0].tensor_bytes == 15_643_254_784


def test_a_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + yaml.safe_dump(minimal()).encode())
    assert load_catalog(path).repo_id == "me/tiny-GGUF"


# ---- what is told ------------------------------------------------------------------------------

Spoil = Callable[[dict[str, Any]], object]


def _set(*keys: str | int, to: Any) -> Spoil:
    def spoil(data: dict[str, Any]) -> None:
        node: Any = data
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = to

    return spoil


def _drop(*keys: str | int) -> Spoil:
    def spoil(data: dict[str, Any]) -> None:
        node: Any = data
        for key in keys[:-1]:
            node = node[key]
        del node[keys[-1]]

    return spoil


PROBLEMS: dict[str, tuple[Spoil, str]] = {
    "size is text": (
        _set("files", 3, "size_bytes", to="x"),
        'files[3].size_bytes: expected a positive integer, found "x"',
    ),
    "size is zero": (
        _set("files", 0, "size_bytes", to=0),
        "files[0].size_bytes: expected a positive integer, found 0",
    ),
    "size is a float": (
        _set("files", 0, "size_bytes", to=1.5),
        "files[0].size_bytes: expected a positive integer, found 1.5",
    ),
    "size is true": (
        _set("files", 0, "size_bytes", to=True),
        "files[0].size_bytes: expected a positive integer, found true",
    ),
    "size is huge": (
        _set("files", 0, "size_bytes", to=2**70),
        "files[0].size_bytes: expected a positive integer, found an integer of more than 63 bits",
    ),
    "size in GB instead of bytes": (
        _set("files", 0, "size_bytes", to=15),
        "files[0].size_bytes: expected about 15643254784 by recipe and architecture, found 15",
    ),
    "tensor bytes off by one": (
        _set("files", 0, "tensor_bytes", to=15_643_254_785),
        "files[0].tensor_bytes: expected 15643254784 by recipe and architecture, found 15643254785",
    ),
    "unknown key": (
        _set("files", 1, "colour", to=True),
        "files[1].colour: unknown key",
    ),
    "unknown key with a near one": (
        _set("files", 1, "filname", to="x.gguf"),
        "files[1].filname: unknown key: did you mean `filename`?",
    ),
    "key missing": (_drop("files", 2, "filename"), "files[2].filename: missing"),
    "top key missing": (_drop("repo_id"), "repo_id: missing"),
    "key with no value": (_set("files", 0, "quant", to=None), "files[0].quant: missing"),
    "quant is empty": (
        _set("files", 0, "quant", to=""),
        'files[0].quant: expected a name, found ""',
    ),
    "quant twice, in another case": (
        _set("files", 5, "quant", to="q2_k"),
        "files[5].quant: `q2_k` is already files[0].quant",
    ),
    "filename twice": (
        _set("files", 1, "filename", to="mixtral-8x7b-v0.1.Q2_K.gguf"),
        "files[1].filename: `mixtral-8x7b-v0.1.Q2_K.gguf` is already files[0].filename",
    ),
    "filename leaves the repository": (
        _set("files", 0, "filename", to="../x.gguf"),
        "files[0].filename: expected a path inside the repository that ends with .gguf, "
        'found "../x.gguf"',
    ),
    "filename is absolute": (
        _set("files", 0, "filename", to="/x.gguf"),
        "files[0].filename: expected a path inside the repository that ends with .gguf, "
        'found "/x.gguf"',
    ),
    "filename is no GGUF": (
        _set("files", 0, "filename", to="x.bin"),
        "files[0].filename: expected a path inside the repository that ends with .gguf, "
        'found "x.bin"',
    ),
    "repo without owner": (
        _set("repo_id", to="mixtral"),
        'repo_id: expected `owner/name`, found "mixtral"',
    ),
    "language that YAML takes for false": (
        _set("languages", to=["en", False]),
        "languages[1]: expected text (in quotes where YAML takes it for something else), "
        "found false",
    ),
    "languages is text": (
        _set("languages", to="en"),
        'languages: expected a list of texts, found "en"',
    ),
    "unknown tensor type": (
        _set("files", 0, "recipe", "ffn", to="q2_K"),
        'files[0].recipe.ffn: expected a GGUF tensor type, found "q2_K": did you mean `Q2_K`?',
    ),
    "recipe without the router": (
        _drop("files", 0, "recipe", "ffn_gate_inp"),
        "files[0].recipe.ffn_gate_inp: missing, as the model has experts",
    ),
    "recipe is a list": (
        _set("files", 0, "recipe", to=["Q2_K"]),
        "files[0].recipe: expected a mapping, found a list",
    ),
    "rows do not fill blocks": (
        _set("architecture", "n_ff", to=14300),
        "files[0].recipe.ffn: rows of 14300 weights do not fill the blocks of 256 of Q2_K",
    ),
    "layout": (
        _set("files", 0, "layout", to="joined"),
        'files[0].layout: expected `split` or `merged`, found "joined"',
    ),
    "perplexity is no number": (
        _set("files", 0, "perplexity", "value", to=float("nan")),
        "files[0].perplexity.value: expected a number of at least 1, found nan",
    ),
    "perplexity under one": (
        _set("files", 0, "perplexity", "value", to=0.5),
        "files[0].perplexity.value: expected a number of at least 1, found 0.5",
    ),
    "perplexity without source": (
        _drop("files", 0, "perplexity", "source"),
        "files[0].perplexity.source: missing",
    ),
    "recommended is text": (
        _set("files", 0, "is_recommended", to="yes"),
        'files[0].is_recommended: expected true or false, found "yes"',
    ),
    "no files": (_set("files", to=[]), "files: expected a list of at least one file, found a list"),
    "files is a mapping": (
        _set("files", to={"a": 1}),
        "files: expected a list of at least one file, found a mapping",
    ),
    "file is text": (
        _set("files", 7, to="Q8_0"),
        'files[7]: expected a mapping, found "Q8_0"',
    ),
    "heads do not divide": (
        _set("architecture", "n_head_kv", to=5),
        "architecture.n_head_kv: expected a divisor of n_head (32), found 5",
    ),
    "more experts used than there are": (
        _set("architecture", "n_expert_used", to=9),
        "architecture.n_expert_used: expected 1 to 8, found 9",
    ),
    "experts used in a dense model": (
        _set("architecture", "n_expert", to=0),
        "architecture.n_expert_used: expected 0 as n_expert is, found 2",
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_problem_is_told_with_its_place(name: str) -> None:
    spoil, expected = PROBLEMS[name]
    data = tree()
    spoil(data)
    assert expected in issues_of(data)


def test_all_problems_are_told_at_once() -> None:
    data = tree()
    for spoil in (_set("files", 0, "bits", to="two"), _drop("files", 1, "quant"), _drop("repo_id")):
        spoil(data)
    assert issues_of(data) == (
        "repo_id: missing",
        'files[0].bits: expected a positive integer, found "two"',
        "files[1].quant: missing",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "empty": ("", "the file: expected a mapping, found nothing"),
        "a list": ("[1, 2]", "the file: expected a mapping, found a list"),
        "syntax": ("repo_id: [x\nfiles: y", "line 2, column 6: not YAML: "),
        "control character": ("a: \x00", "not YAML: "),
        "date out of range": ("a: 2024-99-99", "not YAML: month must be in 1..12"),
        "deep": ("[" * 100_000, "nested too deeply"),
        "key twice": ("repo_id: a/b\nrepo_id: c/d\n", "line 2: `repo_id` appears twice"),
        "list as key": ("? [a]\n: b\n", "not YAML: found unhashable key"),
        "tag": ("!!python/object:os.system x", "not YAML: could not determine a constructor"),
    }.values(),
    ids=["empty", "list", "syntax", "control", "date", "deep", "twice", "list key", "tag"],
)
def test_text_that_is_no_catalog(text: str, expected: str) -> None:
    assert any(expected in issue for issue in issues_of(text)), issues_of(text)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot be read: no such file or directory"),
        (b"repo_id: \xff", "byte 9: not UTF-8"),
        (b"#" * (2**20 + 1), "larger than 1 MiB: not a catalog"),
    ],
    ids=["absent", "not UTF-8", "a model instead"],
)
def test_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, expected: str) -> None:
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CatalogError) as caught:
        load_catalog(path)
    assert caught.value.issues == (expected,)
    assert caught.value.hint


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="cannot be read"):
        load_catalog(tmp_path)


def test_aliases_of_aliases_do_not_explode() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    assert any("a29: unknown key" in issue for issue in issues_of("\n".join(lines)))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
PLACES = [("files", 0, key) for key in tree()["files"][0]]
PLACES += [("files", 6, "perplexity", key) for key in ("value", "source", "is_estimated", "note")]
PLACES += [("architecture", key) for key in tree()["architecture"]]
PLACES += [(key,) for key in tree()]


@settings(deadline=None, max_examples=60)
@given(place=st.sampled_from(PLACES), value=SCALARS | st.lists(SCALARS, max_size=2))
def test_any_value_anywhere_gives_a_catalog_or_issues(place: tuple[Any, ...], value: Any) -> None:
    data = tree()
    _set(*place, to=value)(data)
    issues = issues_of(data)
    assert all(": " in issue for issue in issues)
    if not issues:
        assert parse_catalog(yaml.safe_dump(data), PATH).files
