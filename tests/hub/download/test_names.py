"""What names of files tell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.errors import HubError
from gguf_hub.hub.download.names import (
    Shard,
    check_distinct,
    check_safe,
    shard_of,
)


def test_shards_know_their_place() -> None:
    assert shard_of("a/m-00002-of-00005.gguf") == Shard("a/m", 2, 5)
    assert shard_of("m-2-of-5.gguf") is None
    assert shard_of("m.gguf") is None


@pytest.mark.parametrize(
    "path",
    ["../x", "a/../../x", "/etc/x", "C:/x", "a/c:x", "a\\b", "..", "", "a//b", "./a", "a\0b",
     "a\nb", "a\x9b2Jb", "a\udc80b", "NUL", "con.gguf", "a/Com1.tar.gz", "lpt9", "aux .txt",
     "a./b", "a/b ", ".. /x", "//server/share/x", "\\\\?\\C:\\x", "a/",
     ".git/config", "a/.git/config", "a/b/.git", ".git", "a/.GIT/hooks/x", "a/git~1/config",
     "a/.git./x", "a/.git /x", "a/.g\u200cit/config", "\ufeff.git/x", ".git::$INDEX_ALLOCATION/x",
     "a/.hg/hgrc", ".svn/entries", "a/HG~2/hgrc", ".jj/repo/config.toml", "a" * 256,
     "d/" + "\u00fc" * 128, ".cache/Huggingface/x", ".cache/huggingface", ".GIT/hooks/x",
     ".cache/huggingface/download/x.metadata"],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(HubError, match="refused"):
        check_safe(path, "org/evil")


@pytest.mark.parametrize(
    "path",
    [
        "console.gguf",
        "com10",
        "nullable/a.gguf",
        "a.con",
        "a.gguf",
        "a/b/c.gguf",
        "..a",
        "a..b",
        ".gitattributes",
        "ü ö.gguf",
        "a/.cache/x",
        ".github/workflows/x.yml",
        ".gitmodules",
        ".gitignore",
        "a.git",
        "git/x",
        "x.hg",
        "a" * 250 + ".gguf",
        ".cache/huggingface2/x",
    ],
)
def test_ordinary_names_are_safe(path: str) -> None:
    check_safe(path, "org/good")


def test_a_colon_names_a_stream_on_windows_alone() -> None:
    check_safe("model:7b.gguf", "org/good", is_windows=False)
    with pytest.raises(HubError, match="refused"):
        check_safe("model:7b.gguf", "org/evil", is_windows=True)


@given(st.data())
def test_no_spelling_of_git_is_let_through(data: st.DataObject) -> None:
    """HFS+ ignores some characters, NTFS drops ends and knows short names, both ignore case."""
    invisible = st.sampled_from(["", "", "\u200c", "\u200d", "\u202e", "\u206a", "\ufeff"])
    name = "".join(
        data.draw(st.sampled_from([letter, letter.upper()])) + data.draw(invisible)
        for letter in data.draw(st.sampled_from([".git", "git~1", ".hg", ".svn"]))
    )
    end = data.draw(st.sampled_from(["", ".", " ", " .. ", ":stream", "::$INDEX_ALLOCATION"]))
    parts = [*data.draw(st.lists(st.sampled_from(["a", "b.c"]), max_size=2)), name + end]
    parts += data.draw(st.lists(st.sampled_from(["config", "hooks", "x"]), max_size=2))
    with pytest.raises(HubError, match="refused"):
        check_safe("/".join(parts), "org/evil", is_windows=False)


@pytest.mark.parametrize(
    "paths",
    [
        ["a.gguf", "A.gguf"],
        ["a.gguf", "a.gguf"],
        ["\u00e9.gguf", "e\u0301.gguf"],
        ["a.gguf", "a.gguf/b.gguf"],
        ["A/b", "a"],
        ["x/Stra\u00dfe", "x/STRASSE"],
        ["a\u200cb", "ab"],
    ],
)
def test_names_that_are_one_on_some_system_are_refused(paths: list[str]) -> None:
    for order in (paths, paths[::-1]):
        with pytest.raises(HubError, match="cannot both lie"):
            check_distinct(order, "org/evil")


@pytest.mark.parametrize("base", ["", "sub/", "a/b/"])
@pytest.mark.parametrize(
    "names",
    [
        ["HEAD", "objects/x", "refs/x", "config"],
        ["HEAD", "commondir"],
        ["head", "Objects/x", "REFS/y/z"],
    ],
)
def test_files_that_make_a_bare_repository_are_refused(base: str, names: list[str]) -> None:
    paths = [f"{base}{name}" for name in names]
    with pytest.raises(HubError, match="git repository"):
        check_distinct(["README.md", *paths], "org/evil")
    check_distinct(["README.md", *paths[1:]], "org/good")
    check_distinct(["README.md", paths[0], f"{base}AHEAD", "objects2/x", "refs/y"], "org/good")


def test_ordinary_repositories_are_let_through() -> None:
    check_distinct(["a.gguf", "b.gguf", "BF16/a.gguf", "Q4/a.gguf", "HEAD", "refs"], "org/good")
