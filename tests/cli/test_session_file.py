"""Saved sessions: what ``/save`` replaces, and what ``/load`` takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguf_hub.cli.run.session_file import load, save
from gguf_hub.errors import GgufHubError

STATES = [{"kind": "text", "tokens": [1, 2]}, {"kind": "chat", "system": "é", "messages": []}]


@pytest.mark.parametrize("state", STATES)
def test_what_is_saved_is_loaded_and_saved_again(tmp_path: Path, state: dict) -> None:
    path = tmp_path / "session.json"
    for each in (state, *STATES):
        save(path, each)
        assert load(path) == each
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [b"my only copy", b"GGUF\3", b'{"kind": "text"}', b"\xff"])
@pytest.mark.parametrize("kind", ["file", "link", "hard link"])
def test_nothing_else_is_replaced(tmp_path: Path, content: bytes, kind: str) -> None:
    precious, path = tmp_path / "precious", tmp_path / "session.json"
    precious.write_bytes(content)
    if kind == "file":
        path.write_bytes(content)
    elif kind == "link":
        path.symlink_to(precious)
    else:
        path.hardlink_to(precious)
    with pytest.raises(GgufHubError, match="is not a saved session: it is not replaced"):
        save(path, STATES[0])
    assert path.read_bytes() == precious.read_bytes() == content


def test_a_link_to_a_session_stays_a_link(tmp_path: Path) -> None:
    path, link = tmp_path / "session.json", tmp_path / "link"
    save(path, STATES[0])
    link.symlink_to(path)
    save(link, STATES[1])
    assert link.is_symlink()
    assert load(path) == STATES[1]


def test_a_folder_that_is_not_there_is_told_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(GgufHubError, match="no such file or directory"):
        save(tmp_path / "none" / "session.json", STATES[0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"no json", b"[" * 100_000, b"\xff\xfe"])
def test_what_is_no_session_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "session.json"
    path.write_bytes(content)
    with pytest.raises(GgufHubError, match="is not a saved session"):
        load(path)
