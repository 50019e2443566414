"""Raw parts: a file cut anywhere by its bytes, as ``split`` does it. No part is a GGUF by itself.

In use: ``X.gguf.part1of2`` (mradermacher), ``X.gguf-split-a`` (TheBloke), and what ``split`` writes
after a suffix: ``X.gguf.part-aa``, ``X.gguf.part01``, ``X.gguf.00001``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Protocol

from gguf_hub.errors import GgufError
from gguf_hub.gguf.shard_names import missing_text
from gguf_hub.oserrors import translate_os_errors

_NAME = re.compile(
    r"(?P<head>(?P<whole>.*\.gguf)"
    r"(?:[.-]part[-_.]?(?=\d|[a-z]{1,2}$)|-split-(?=[a-z]{1,2}$)|\.(?=\d{2,5}$)))"
    r"(?P<index>\d{1,5}|[a-z]{1,2})(?P<tail>[-_]?of[-_]?(?P<count>\d{1,5}))?",
    re.IGNORECASE,
)
_MAX_CHARS = 1000  # no file system takes longer names


class Piece(Protocol):
    """One file of several that make one: a shard or a raw part."""

    @property
    def key(self) -> object:
        """The same for all pieces of a file."""

    @property
    def index(self) -> int:
        """Which piece it is."""

    @property
    def count(self) -> int | None:
        """How many there are; None where no name says it."""

    def name(self, index: int) -> str:
        """Return what the piece of an index is called."""


@dataclass(frozen=True)
class RawPart:
    """What the name of a raw part says.

    Attributes:
        whole: What the file was called before it was cut.
        head: The name up to the index.
        tail: The name behind it.
        index: Which part; letters count from 1.
        count: How many there are; None where no name says it.
        digits: The index as it is written.
    """

    whole: str
    head: str
    tail: str
    index: int
    count: int | None
    digits: str

    @property
    def key(self) -> object:
        """The same for all parts of a file."""
        return self.head, self.tail, self.digits.isdigit()

    def name(self, index: int) -> str:
        """Return what the part of an index is called."""
        width = len(self.digits)
        if self.digits.isdigit():
            return f"{self.head}{index:0{width}d}{self.tail}"
        letters = "".join(chr(97 + (index - 1) // 26**i % 26) for i in reversed(range(width)))
        return f"{self.head}{letters}{self.tail}"


def parse_raw_part(path: str) -> RawPart | None:
    """Return what the name of a raw part says, or None for any other name."""
    match = _NAME.fullmatch(path) if len(path) <= _MAX_CHARS else None
    if match is None:
        return None
    digits, count = match["index"].lower(), match["count"]
    if digits.isdigit():
        index = int(digits)
    elif count:
        return None
    else:
        index = 1
        for place, letter in enumerate(reversed(digits)):
            index += (ord(letter) - 97) * 26**place
    n_parts = int(count) if count else None
    return RawPart(match["whole"], match["head"], match["tail"] or "", index, n_parts, digits)


def missing_pieces(pieces: Sequence[Piece]) -> list[str]:
    """Return the names that a set lacks, as far as the names that are there tell.

    Where no name says how many there are, the last ones cannot be missed: the header tells.
    """
    there = {piece.index for piece in pieces}
    first = 0 if 0 in there else 1
    count = pieces[0].count
    end = max(there) + 1 if count is None else first + count
    return [pieces[0].name(index) for index in range(first, end) if index not in there]


def sibling_parts(path: Path) -> tuple[Path, ...]:
    """Return the raw parts beside a part, itself among them, in order; of another file itself.

    Raises:
        GgufError: The folder cannot be read.
    """
    mine = parse_raw_part(path.name)
    if mine is None:
        return (path,)
    with translate_os_errors(f"cannot list `{path.parent}`", GgufError, path=path):
        names = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
    parts = ((name, parse_raw_part(name)) for name in {*names, path.name})
    found = {name: part for name, part in parts if part is not None and part.key == mine.key}
    return tuple(path.with_name(name) for name in sorted(found, key=lambda n: found[n].index))


def find_raw_parts(path: Path) -> tuple[Path, ...]:
    """Return all parts of the file that a part belongs to, in order.

    Args:
        path: Any part.

    Raises:
        GgufError: Some are missing; all of these are named.
    """
    paths = sibling_parts(path)
    missing = missing_pieces([part for each in paths if (part := parse_raw_part(each.name))])
    if not path.is_file():
        missing.append(path.name)
    if missing:
        raise GgufError(
            f"of the parts that `{path}` belongs to, {missing_text(missing)}",
            path=path,
            hint=f"all parts must lie in `{path.parent}`",
        )
    return paths


def merge_hint(path: Path) -> str:
    """Return the command that joins a part with the others, into the working folder."""
    part = parse_raw_part(path.name)
    whole = part.whole if part else path.name
    return f"`gguf-hub merge {quote(str(path))} {quote(whole)}` joins the parts"


def refuse_raw_part(path: Path) -> None:
    """Refuse to open a raw part as a model.

    Raises:
        GgufError: It is one: the hint names the command that joins the parts.
    """
    part = parse_raw_part(path.name)
    if part is None or not path.is_file():
        return
    find_raw_parts(path)  # one that is missing is the news
    raise GgufError(
        f"`{path}` is one part of a file that was cut by its bytes: they must be joined first",
        path=path,
        hint=f"{merge_hint(path)}; then name `{part.whole}`",
    )
