"""Who else could change a file or folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from gguf_hub.ownership import (
    make_own_folder,
    read_own_file,
    weakness_of_folder,
    weakness_of_way,
)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="owners and modes as POSIX has them")
OTHER_UID, OTHER_GID = 61002, 61002
needs_root = pytest.mark.skipif(
    getattr(os, "geteuid", lambda: 1)() != 0, reason="only root can give files away"
)


def test_a_folder_of_ours_has_no_weakness(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert make_own_folder(folder) is None
    assert weakness_of_folder(folder) is None


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
def test_new_folders_are_closed_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        assert make_own_folder(tmp_path / "a" / "b") is None
    finally:
        os.umask(before)
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        assert stat.S_IMODE(folder.stat().st_mode) & 0o022 == 0


@pytest.mark.parametrize("depth", [0, 1, 2], ids=["itself", "parent", "grandparent"])
def test_a_folder_on_the_way_that_everybody_can_write_is_told(tmp_path: Path, depth: int) -> None:
    folder = tmp_path / "a" / "b" / "c"
    make_own_folder(folder)
    open_one = (folder, *folder.parents)[depth]
    open_one.chmod(0o777)
    assert weakness_of_folder(folder) == f"`{open_one}` can be written by everybody (mode 777)"
    open_one.chmod(0o1777)  # as /tmp: nobody may rename what others have there
    assert (weakness_of_folder(folder) is None) == (depth > 0)


def test_a_folder_of_a_group_with_members_is_told(tmp_path: Path) -> None:
    import grp

    groups = [g.gr_gid for g in grp.getgrall() if g.gr_gid != os.getegid()]
    usable = groups if os.geteuid() == 0 else [g for g in groups if g in os.getgroups()]
    if not usable:
        pytest.skip("this user is in no other group")
    tmp_path.chmod(0o770)
    os.chown(tmp_path, -1, usable[-1])
    assert "by group" in (weakness_of_folder(tmp_path) or "")


def test_links_are_followed_and_their_folders_judged(tmp_path: Path) -> None:
    target, swappable = tmp_path / "target", tmp_path / "swappable"
    for folder in (target, swappable):
        folder.mkdir()
    (swappable / "link").symlink_to(target)
    (tmp_path / "first").symlink_to("swappable/link")
    (tmp_path / "parent").symlink_to("swappable/../target")
    assert weakness_of_folder(tmp_path / "first") is None
    swappable.chmod(0o777)
    assert "swappable" in (weakness_of_folder(tmp_path / "first") or "")
    assert "swappable" in (weakness_of_folder(tmp_path / "parent") or "")


def test_links_in_circles_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="too many links"):
        weakness_of_way(tmp_path / "a" / "c")


@needs_root
def test_what_belongs_to_another_user_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "theirs" / "ours"
    make_own_folder(folder)
    os.chown(folder.parent, OTHER_UID, OTHER_GID)
    expected = f"`{folder.parent}` belongs to another user (uid {OTHER_UID})"
    assert weakness_of_folder(folder) == expected
    assert make_own_folder(folder / "new") == expected
    assert not (folder / "new").exists()
    os.chown(folder.parent, 0, 0)
    (tmp_path / "link").symlink_to(folder)
    os.chown(tmp_path / "link", OTHER_UID, OTHER_GID, follow_symlinks=False)
    assert "link` belongs" in (weakness_of_folder(tmp_path / "link") or "")


def test_own_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    assert read_own_file(tmp_path / "a") == b"content"


@pytest.mark.parametrize("kind", ["open", "link", "folder", "pipe", "absent", "theirs"])
def test_other_files_are_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "target").write_bytes(b"content")
        path.symlink_to("target")
    elif kind != "absent":
        path.write_bytes(b"content")
    if kind == "open":
        path.chmod(0o666)
    if kind == "theirs":
        if os.geteuid():
            pytest.skip("only root can give files away")
        os.chown(path, OTHER_UID, OTHER_GID)
    with pytest.raises(OSError):
        read_own_file(path)
