"""What a file's name tells: its quant, its place in a set of shards, whether it is safe to use."""

from __future__ import annotations

import re
import string
import unicodedata
from dataclasses import dataclass
from pathlib import PurePosixPath

from gguf_hub.errors import HubError

# Names in use: Q4_K_M, IQ2_XXS, Q4_0_4_8, UD-Q4_K_XL, TQ1_0, F16, BF16, MXFP4, MXFP4_MOE, Q8_0
_QUANT = r"(?:UD-)?(?:(?:I|T)?Q\d(?:_[A-Z0-9]+)*|BF16|F?P?16|F32|MXFP4(?:_MOE)?|NVFP4)"
_QUANT_IN_NAME = re.compile(rf"(?<![A-Za-z0-9])({_QUANT})(?![A-Za-z0-9_])", re.IGNORECASE)
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.gguf$)", re.IGNORECASE)
_SIDECAR = re.compile(r"(?:^|[-_.])(?:mmproj|imatrix|mtp)(?:[-_.]|$)", re.IGNORECASE)
_LETTERS = frozenset(string.ascii_lowercase + string.digits)
_MAX_CHARS = 1000  # no file system takes longer names; looking for quants goes back and forth

# what huggingface_hub and git keep for themselves inside a download folder
_RESERVED_FOLDERS = (".cache/huggingface", ".git")
# Source: Microsoft, "Naming Files, Paths, and Namespaces"
_DEVICE = re.compile(r"con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³]", re.IGNORECASE)


@dataclass(frozen=True)
class Shard:
    """Place of a file in a set: ``index`` counts from 1 to ``count``; ``key`` names the set."""

    key: str
    index: int
    count: int


def is_gguf(path: str) -> bool:
    """Tell whether a file says that it is a GGUF."""
    return path.lower().endswith(".gguf")


def is_model(path: str) -> bool:
    """Tell whether a GGUF holds a model: not a projector, an importance matrix or a draft head."""
    return is_gguf(path) and not _SIDECAR.search(PurePosixPath(path).name)


def looks_like_quant(text: str) -> bool:
    """Tell whether ``text`` by itself is written like a quant, in any case."""
    return re.fullmatch(_QUANT, text, re.IGNORECASE) is not None


def quant_of(path: str) -> str | None:
    """Return the quant that a path names, as it is written there (the last one), or None."""
    found = _QUANT_IN_NAME.findall(_without_suffixes(path))
    return found[-1] if found else None


def has_quant(path: str, quant: str) -> bool:
    """Tell whether a path names exactly this quant (any case), between separators.

    ``Q4_K`` is no match for ``Q4_K_M``, nor is ``Q4_K_M`` for ``IQ4_K_M``.
    """
    # an underscore may stand before a quant (`model_q4_0.gguf`) but not inside one
    before = _LETTERS if looks_like_quant(quant) else _LETTERS | {"_"}
    after = _LETTERS | {"_"}
    text, wanted = _without_suffixes(path).lower(), quant.lower()
    at = text.find(wanted)
    while at >= 0:
        end = at + len(wanted)
        if text[max(at - 1, 0) : at] not in before and text[end : end + 1] not in after:
            return True
        at = text.find(wanted, at + 1)
    return False


def shard_of(path: str) -> Shard | None:
    """Return the place in a set that ``-00002-of-00005.gguf`` names, or None."""
    match = _SHARD.search(path)
    if match is None:
        return None
    return Shard(path[: match.start()], int(match[1]), int(match[2]))


def check_safe(path: str, repo_id: str) -> None:
    r"""Refuse a name that would lead out of the folder it is put in, on any system.

    Args:
        path: A name from a hub's listing.
        repo_id: The repository, for the message.

    Raises:
        HubError: ``..``, an absolute path, a drive (``C:``), a backslash, a control character, an
            empty part, a device (``NUL``, ``com1.txt``), a part that ends with a dot or a space,
            which Windows drops, or a name that tools keep for themselves.
    """
    is_unsafe = (
        any(_is_unsafe_part(part) for part in path.split("/"))
        or "\\" in path
        or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in path)
        or any(f"{path}/".lower().startswith(f"{name}/") for name in _RESERVED_FOLDERS)
    )
    if is_unsafe:
        raise HubError(
            f"repository `{repo_id}` lists a file `{path!r}`, whose name would lead out of the "
            "folder it is put in: refused",
            repo_id=repo_id,
            hint="do not trust this repository; tell its owner if you know them",
        )


def _is_unsafe_part(part: str) -> bool:
    # of `nul.tar.gz`, Windows looks at what stands before the first dot
    is_device = _DEVICE.fullmatch(part.partition(".")[0].rstrip())
    return part in ("", ".", "..") or part[1:2] == ":" or part[-1] in ". " or is_device is not None


def _without_suffixes(path: str) -> str:
    path = path[-_MAX_CHARS:]
    return _SHARD.sub("", path).removesuffix(".gguf").removesuffix(".GGUF")
