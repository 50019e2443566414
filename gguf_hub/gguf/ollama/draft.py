"""A header while its names change, and the row of a table that says which."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gguf_hub.gguf.format import Field
from gguf_hub.gguf.hparams import ARCHITECTURE, architecture
from gguf_hub.gguf.metadata import whole_number
from gguf_hub.gguf.senses import is_for_senses

Shape = tuple[int, ...]
VOCABULARY = "tokenizer.ggml."
_BLOCK = re.compile(r"(blk\.\d+\.)(.+)")
_NO_PRE = ("", "default")
"""What the converter writes where it does not know how words are cut: the engine knows."""


class UnclearError(Exception):
    """The sources do not tell how a file is meant."""


@dataclass(frozen=True)
class Dialect:
    """How Ollama's converter writes an architecture; names of keys stand behind its name.

    Attributes:
        name: What llama.cpp calls it; None for the same.
        keys: What a key is called there -> here.
        agrees: Keys that llama.cpp does not have -> the one value with which they say what is so
            anyway. With another one they stay, and are named.
        defaults: Keys -> what the engine takes where a file has none.
        tensors: What a tensor is called there -> here, without its block.
        pre: How words are cut where the file does not say.
        vocabulary: Keys ``tokenizer.ggml.…`` -> what the engine takes where a file has none.
        more: What else is to be done.
        is_marked: Tells such a file without a name of this row and without keys for images.
    """

    name: Callable[[Draft], str] | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    agrees: Mapping[str, Callable[[Draft], Any]] = field(default_factory=dict)
    defaults: Mapping[str, float | int | str] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)
    pre: str = ""
    vocabulary: Mapping[str, bool] = field(default_factory=dict)
    more: tuple[Callable[[Draft], None], ...] = ()
    is_marked: Callable[[Draft], bool] | None = None


class Draft:
    """A header while its names change.

    Args:
        fields: Its metadata.
        shapes: Of its tensors, under their names in the file.
        dialect: The row of its architecture.
    """

    def __init__(
        self, fields: Mapping[str, Field], shapes: Mapping[str, Shape], dialect: Dialect
    ) -> None:
        self.arch, self.shapes, self._dialect = architecture(fields), shapes, dialect
        self.fields = dict(fields)
        self.names: dict[str, str] = {}

    @property
    def is_marked(self) -> bool:
        """Whether Ollama's converter wrote the file."""
        dialect, start = self._dialect, f"{self.arch}."
        own = {*dialect.keys, *dialect.agrees}
        names = [key[len(start) :] for key in self.fields if key.startswith(start)]
        return (
            dialect.name is not None
            or any(name in own or is_for_senses(name) for name in names)
            or any(rest in dialect.tensors for _, rest in map(_parts, self.shapes))
            or (dialect.is_marked is not None and dialect.is_marked(self))
        )

    def translate(self) -> None:
        """Apply the row.

        Raises:
            UnclearError: It does not tell how this file is meant.
        """
        self._rename_keys()
        for name, expected in self._dialect.agrees.items():
            if _is_same(self.get(name), expected(self)):
                self.drop(name)
        for name, value in self._dialect.defaults.items():
            self.default(name, value)
        if self._dialect.pre and self.of_vocabulary("pre") in (None, *_NO_PRE):
            self.set_vocabulary("pre", self._dialect.pre)
        for name, flag in self._dialect.vocabulary.items():
            if self.of_vocabulary(name) is None:
                self.set_vocabulary(name, flag)
        self._rename_tensors()
        for change in self._dialect.more:
            change(self)

    def _rename_keys(self) -> None:
        """Rename keys in their order, and the architecture."""
        old, new = f"{self.arch}.", f"{self.arch}."
        if self._dialect.name is not None:
            self.arch = self._dialect.name(self)
            new = f"{self.arch}."
            field_ = self.fields[ARCHITECTURE]
            self.fields[ARCHITECTURE] = replace(field_, value=self.arch)
        # a key stays where both of its names are there: nobody knows which one counts
        keys = {there: here for there, here in self._dialect.keys.items()
                if old + here not in self.fields}  # fmt: skip
        self.fields = {
            new + keys.get(key[len(old) :], key[len(old) :]) if key.startswith(old) else key: value
            for key, value in self.fields.items()
        }

    def _rename_tensors(self) -> None:
        for name in self.shapes:
            block, rest = _parts(name)
            new = block + self._dialect.tensors.get(rest, rest)
            if new != name and new not in self.shapes:
                self.names[name] = new

    # -- keys ------------------------------------------------------------------------------------

    def get(self, name: str) -> Any:
        """Return the value of a key; None for none."""
        found = self.fields.get(f"{self.arch}.{name}")
        return None if found is None else found.value

    def whole(self, name: str) -> int:
        """Return a whole number; 0 for none."""
        return whole_number(self.get(name)) or 0

    def set(self, name: str, value: Any) -> None:
        """Give a key a value, a float as files hold it."""
        held = float(np.float32(value)) if isinstance(value, float) else value
        self.fields[f"{self.arch}.{name}"] = Field.of(held)

    def default(self, name: str, value: Any) -> None:
        """Give a key a value if it has none."""
        if self.get(name) is None:
            self.set(name, value)

    def drop(self, name: str) -> None:
        """Take a key away."""
        self.fields.pop(f"{self.arch}.{name}", None)

    def of_vocabulary(self, name: str) -> Any:
        """Return the value of a key of the vocabulary; None for none."""
        found = self.fields.get(VOCABULARY + name)
        return None if found is None else found.value

    def set_vocabulary(self, name: str, value: Any) -> None:
        """Give a key of the vocabulary a value."""
        self.fields[VOCABULARY + name] = Field.of(value)

    # -- tensors ---------------------------------------------------------------------------------

    def has_in_blocks(self, name: str) -> bool:
        """Tell whether any block has a tensor."""
        return any(rest == name for _, rest in map(_parts, self.shapes))

    def n_rows(self, name: str) -> int:
        """Return the rows of a tensor, or of the first block's that has it; 0 for none."""
        for found, shape in self.shapes.items():
            if name in (found, _parts(found)[1]) and len(shape) > 1:
                return max(0, shape[1])
        return 0


def _parts(name: str) -> tuple[str, str]:
    """Return ``blk.N.`` and the rest of a tensor's name."""
    match = _BLOCK.fullmatch(name)
    return (match[1], match[2]) if match else ("", name)


def _is_same(value: Any, expected: Any) -> bool:
    """Tell whether a number or flag is the one expected; a flag is no number."""
    if not isinstance(value, (bool, int, float)) or expected is None:
        return False
    return isinstance(value, bool) == isinstance(expected, bool) and math.isclose(value, expected)
