"""What a file's name says: its role, its index in a set of files, whether it is safe to use."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from gguf_hub.errors import HubError
from gguf_hub.gguf.raw_parts import RawPart, parse_raw_part
from gguf_hub.gguf.roles import Role
from gguf_hub.hub.download.quants import quant_of, stem_of

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.gguf$)", re.IGNORECASE)

_HEADS = r"eagle3|dflash|dspark"
_LORA = r"lora|adapter(?:[-_.]model)?"
# in this order; models of which a name speaks of MTP, drafts or imatrix are models: what a file is
# itself stands first or last in its name
_ROLES = {
    Role.PROJECTOR: re.compile(r"(?:^|[-_.])mmproj(?:[-_.]|$)"),
    Role.IMATRIX: re.compile(r"^imatrix(?:[-_.]|$)|[-_.]imatrix(?:[-_.]unsloth)?(?:\.dat)?$"),
    Role.VOCAB: re.compile(r"^ggml-vocab[-_.]|(?:^|[-_.])vocab$"),
    Role.ADAPTER: re.compile(
        rf"^(?:ggml[-_.])?(?:{_LORA})(?:[-_.]|$)|[-_.](?:{_LORA})(?:[-_.](?:b?f16|f32|q8_0))?$"
    ),
    Role.DRAFT: re.compile(rf"^(?:mtp|{_HEADS})[-_.]|[-_.](?:{_HEADS})(?:[-_.]|$)"),
}
_FOLDERS = {
    "mmproj": Role.PROJECTOR, "imatrix": Role.IMATRIX, "vocab": Role.VOCAB, "lora": Role.ADAPTER,
    "adapter": Role.ADAPTER, "mtp": Role.DRAFT, "eagle3": Role.DRAFT, "dflash": Role.DRAFT,
    "draft": Role.DRAFT,
}  # fmt: skip

# what huggingface_hub keeps for itself at the top of a download folder
_RESERVED_FOLDER = ".cache/huggingface"
# their hooks and settings are commands, which run as soon as somebody asks for the status
_VERSION_CONTROL = re.compile(r"\.(?:git|hg|svn|bzr|jj)|(?:git|hg|svn|bzr|jj)~[0-9]+")
# HFS+ does not see these. Source: git, utf8.c, next_hfs_char
_INVISIBLE = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_MAX_PART_BYTES = 255
# Source: Microsoft, "Naming Files, Paths, and Namespaces"
_DEVICE = re.compile(r"con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³]", re.IGNORECASE)


@dataclass(frozen=True)
class Shard:
    """A file's index in a set, from 1 to ``count``; ``key`` names the set."""

    key: str
    index: int
    count: int

    def name(self, index: int) -> str:
        """Return what the shard of an index is called."""
        return f"{self.key}-{index:05d}-of-{self.count:05d}.gguf"


def is_gguf(path: str) -> bool:
    """Return whether a file says that it is a GGUF."""
    return path.lower().endswith(".gguf")


def holds_gguf(path: str) -> bool:
    """Return whether a file says that it is a GGUF, or a raw part of one."""
    return is_gguf(path) or parse_raw_part(path) is not None


def role_of_name(path: str) -> Role:
    """Return what a GGUF is for, as far as its folder and its name tell; a header knows better.

    A draft model (``Qwen3-8B-draft``) is a model like any other: it runs by itself. Heads do not.
    """
    *folders, name = stem_of(path).lower().split("/")
    for folder in folders:
        if role := _FOLDERS.get(folder):
            return role
    if role := next((role for role, rule in _ROLES.items() if rule.search(name)), None):
        return role
    # `X-Q8_0-MTP` is the head of X, while `X-MTP-Q8_0` is a model that has one
    quant = quant_of(name)
    is_head = quant is not None and name.endswith((f"{quant}-mtp", f"{quant}.mtp"))
    return Role.DRAFT if is_head else Role.MODEL


def is_model(path: str) -> bool:
    """Return whether a file holds a model, or is a raw part of one, as far as its name tells."""
    return holds_gguf(path) and role_of_name(path) is Role.MODEL


def shard_of(path: str) -> Shard | None:
    """Return index and count as in ``-00002-of-00005.gguf``, or None."""
    match = _SHARD.search(path)
    if match is None:
        return None
    return Shard(path[: match.start()], int(match[1]), int(match[2]))


def piece_of(path: str) -> Shard | RawPart | None:
    """Return which of several files of one model a path is: a shard or a raw part; or None."""
    return shard_of(path) or parse_raw_part(path)


def set_key(path: str) -> object:
    """Return what the shards or raw parts of a set share; of any other file its path."""
    piece = piece_of(path)
    return (piece.key, piece.count) if piece else path


def check_safe(path: str, repo_id: str, *, is_windows: bool = os.name == "nt") -> None:
    r"""Refuse a name that would lead out of the folder it is put in, or do harm in it.

    Args:
        path: A name from a hub's listing.
        repo_id: The repository, for the message.
        is_windows: Whether a colon names a stream of another file. Everything else is refused on
            every system, as folders are moved and shared.

    Raises:
        HubError: ``..``, an absolute path, a drive (``C:``), a backslash, a control character, an
            empty part, a device (``NUL``, ``com1.txt``), a part that ends with a dot or a space,
            which Windows drops, a part that no file system can store, a name that tools keep for
            themselves, or a folder of a version control system, however it is written.
    """
    reason = _danger(path, is_windows)
    if reason:
        shown = path if len(path) <= 100 else f"{path[:97]}..."
        raise HubError(
            f"repository `{repo_id}` lists a file `{shown!r}`, {reason}: refused",
            repo_id=repo_id,
            hint="do not trust this repository; report it to its owner",
        )


def check_distinct(paths: Iterable[str], repo_id: str) -> None:
    """Refuse files that cannot lie in one folder, or that together are a git repository.

    Args:
        paths: Names that are to be put into the same folder.
        repo_id: The repository, for the message.

    Raises:
        HubError: Two names are one on systems that ignore case or the way accents are written; a
            file has the name of a folder; or git would take a folder for a bare repository, and
            run commands of its settings.
    """
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        name = _fold(path)
        if name in files:
            raise _clash(files[name], path, repo_id)
        files[name] = path
        for end in (i for i, letter in enumerate(name) if letter == "/"):
            folders.setdefault(name[:end], path)
    for name in files.keys() & folders.keys():
        raise _clash(files[name], folders[name], repo_id)
    for name, path in files.items():
        base = name.removesuffix("head")
        is_head = base != name and base[-1:] in ("", "/")
        is_linked = f"{base}commondir" in files
        if is_head and (is_linked or {f"{base}objects", f"{base}refs"} <= folders.keys()):
            raise HubError(
                f"repository `{repo_id}` lists `{path!r}` and more that together make a git "
                "repository, whose settings are commands: refused",
                repo_id=repo_id,
                hint="do not trust this repository; --include and --exclude choose single files",
            )


def _clash(first: str, second: str, repo_id: str) -> HubError:
    return HubError(
        f"repository `{repo_id}` lists `{first!r}` and `{second!r}`, which cannot both lie in one "
        "folder on every system",
        repo_id=repo_id,
        hint="choose one of them by name, or leave one out with --exclude",
    )


def _danger(path: str, is_windows: bool) -> str | None:
    """Return why a name is not safe, or None."""
    parts = path.split("/")
    if (
        any(_is_unsafe_part(part) for part in parts)
        or "\\" in path
        or (is_windows and ":" in path)
        or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in path)
    ):
        return "whose name would lead out of the folder it is put in"
    if any(len(part.encode()) > _MAX_PART_BYTES for part in parts):
        return f"of which a part is longer than the {_MAX_PART_BYTES} bytes that can be stored"
    if f"{_fold(path)}/".startswith(f"{_RESERVED_FOLDER}/"):
        return "whose name huggingface_hub keeps for itself"
    if any(_is_version_control(part) for part in parts):
        return "whose name belongs to version control, which would run commands from it"
    return None


def _is_unsafe_part(part: str) -> bool:
    # of `nul.tar.gz`, Windows looks at what stands before the first dot
    is_device = _DEVICE.fullmatch(part.partition(".")[0].rstrip())
    return part in ("", ".", "..") or part[1:2] == ":" or part[-1] in ". " or is_device is not None


def _is_version_control(part: str) -> bool:
    """Return whether some system takes a part of a path for ``.git`` or its like.

    NTFS drops a stream's name behind a colon, dots and spaces at the end, and knows ``.git`` as
    ``git~1`` too. Source: git, path.c, is_ntfs_dotgit.
    """
    name = _fold(part).partition(":")[0].rstrip(". ")
    return _VERSION_CONTROL.fullmatch(name) is not None


def _fold(name: str) -> str:
    """Return what systems that ignore case, accents' spelling and invisible characters see."""
    visible = _INVISIBLE.sub("", name)
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", visible).casefold())
