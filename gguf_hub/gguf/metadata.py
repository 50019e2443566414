"""Metadata of a GGUF as Python values, and the one place where a value's type is checked.

A file may hold anything under any key: an array where one number is meant, NaN, text that is no
text. ``metadata[key]`` gives what is there; ``uint``, ``number``, ``text`` and ``flag`` give what
was asked for, or raise an error with the key, what was expected and what was found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.format import Field
from gguf_hub.gguf.strings import StringArray, shown, valid

T = TypeVar("T")

MAX_UINT = 2**32 - 1
"""Hyperparameters are stored as uint32."""
_INT = (int, np.integer)
_NUMBER = (int, float, np.integer, np.floating)
_FLAG = (bool, np.bool_)
_ARRAY = (np.ndarray, StringArray, list, tuple)


class Metadata(Mapping[str, Any]):
    """Keys and values: numbers, str, list of str, numpy arrays.

    Strings of arrays are decoded when first asked for; numeric arrays are views where the file has
    them aligned.

    Args:
        fields: Key to ``Field``, or to a plain value.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields
        self._seen: dict[str, Any] = {}

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Metadata:
        """Return plain metadata, or fields, with checked reading."""
        return metadata if isinstance(metadata, cls) else cls(metadata)

    def __getitem__(self, key: str) -> Any:
        """Return the value of a key."""
        if key not in self._seen:
            self._seen[key] = _plain(_bare(self._fields[key]))
        return self._seen[key]

    def __contains__(self, key: object) -> bool:
        return key in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def raw(self, key: str) -> Any:
        """Return the value of a key, an array of texts not decoded; None without such a key."""
        return _bare(self._fields.get(key))

    # -- checked reading -------------------------------------------------------------------------

    def uint(
        self, key: str, default: int | None = None, *, least: int = 0, most: int = MAX_UINT
    ) -> int:
        """Return one whole number; a float without a fraction is one, too.

        Args:
            key: The key.
            default: Where there is no such key; None for a key that must be there.
            least: The least number that makes sense.
            most: The largest one.

        Raises:
            UnsupportedGgufError: There is no such key, or it holds something else.
        """
        value = self._required(key, default)
        number = whole_number(value)
        if number is None or not least <= number <= most:
            raise _unexpected(key, _range(least, most, number), value)
        return number

    def uniform(
        self, key: str, default: int | None = None, *, least: int = 0, most: int = MAX_UINT
    ) -> int:
        """Return one whole number, or the one that an array repeats for each layer.

        Args and errors are those of ``uint``.
        """
        value = self._required(key, default)
        number = value[0] if is_uniform(value) else value
        if not isinstance(value, np.ndarray) or is_uniform(value):
            return Metadata({key: number}).uint(key, least=least, most=most)
        raise _unexpected(key, "one number for all layers", value)

    def largest(
        self, key: str, default: int | None = None, *, least: int = 0, most: int = MAX_UINT
    ) -> int:
        """Return one whole number, or the largest of an array: some keys hold one for each layer.

        Args and errors are those of ``uint``.
        """
        value = self._required(key, default)
        if isinstance(value, np.ndarray) and value.size and value.dtype.kind in "iuf":
            value = value.max()
        number = whole_number(value)
        if number is None or not least <= number <= most:
            raise _unexpected(key, f"{_range(least, most, number)}, or an array of such", value)
        return number

    def number(
        self,
        key: str,
        default: float | None = None,
        *,
        least: float = -math.inf,
        above: float = -math.inf,
    ) -> float:
        """Return one finite number.

        Args:
            key: The key.
            default: Where there is no such key; None for a key that must be there.
            least: The least number that makes sense.
            above: What it must be more than.

        Raises:
            UnsupportedGgufError: There is no such key, or it holds something else.
        """
        value = self._required(key, default)
        is_right = isinstance(value, _NUMBER) and not isinstance(value, _FLAG)
        if not (is_right and math.isfinite(value) and value >= least and value > above):
            raise _unexpected(key, f"one finite number{bounds(least, above)}", value)
        return float(value)

    def text(self, key: str, default: str | None = None, *, words: Sequence[str] = ()) -> str:
        """Return one text; bytes that are not UTF-8 become U+FFFD.

        Args:
            key: The key.
            default: Where there is no such key; None for a key that must be there.
            words: What it may be; none for any text.

        Raises:
            UnsupportedGgufError: There is no such key, or it holds something else.
        """
        value = self._required(key, default)
        if not isinstance(value, str):
            raise _unexpected(key, "a text", value)
        if words and value not in words:
            raise _unexpected(key, f"{', '.join(words[:-1])} or {words[-1]}", value)
        return valid(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """Return one truth value.

        Raises:
            UnsupportedGgufError: There is no such key, or it holds something else.
        """
        value = self._required(key, default)
        if not isinstance(value, _FLAG):
            raise _unexpected(key, "true or false", value)
        return bool(value)

    def _required(self, key: str, default: Any) -> Any:
        value = self.raw(key)
        if value is None:
            value = default
        if value is None:
            raise UnsupportedGgufError(
                f"metadata has no `{shown(key)}`", hint="`gguf-hub verify` checks the file"
            )
        return value


def _bare(value: Any) -> Any:
    return value.value if isinstance(value, Field) else value


def _plain(value: Any) -> Any:
    """A value as callers want it."""
    if isinstance(value, StringArray):
        return list(value)
    if isinstance(value, np.ndarray):
        value = np.require(value, requirements="A")
        value.flags.writeable = False
    return value


def whole_number(value: Any) -> int | None:
    """Return a whole number as an int, also one stored as a float; None for all else."""
    if isinstance(value, _FLAG) or not isinstance(value, _NUMBER):
        return None
    if isinstance(value, _INT):
        return int(value)
    return int(value) if math.isfinite(value) and value == int(value) else None


def is_uniform(value: Any) -> bool:
    """Return whether a value is an array of numbers that are all the same."""
    is_numbers = isinstance(value, np.ndarray) and value.size > 0 and value.dtype.kind in "iu"
    return is_numbers and bool((value == value[0]).all())


def bounds(least: float, above: float) -> str:
    """Return what a number must be at least and more than, for a message."""
    bound = f" >= {least:g}" if least > -math.inf else ""
    return bound + (f" > {above:g}" if above > -math.inf else "")


def _range(least: int, most: int, number: int | None) -> str:
    is_open = most == MAX_UINT and (number is None or number < least)
    return f"an integer >= {least}" if is_open else f"an integer in [{least}, {most}]"


def _unexpected(key: str, expected: str, value: Any) -> UnsupportedGgufError:
    return UnsupportedGgufError(
        f"metadata `{shown(key)}`: expected {expected}, found {describe(value)}",
        hint="`gguf-hub verify` checks the file",
    )


def or_none(read: Callable[[str], T], key: str) -> T | None:
    """Return what a reader of ``Metadata`` finds, or None where it would raise.

    For those who show what a file holds, damaged or not.
    """
    try:
        return read(key)
    except UnsupportedGgufError:
        return None


def describe(value: Any) -> str:
    """Return a value in a few words, for a message."""
    if isinstance(value, _ARRAY):
        kind = value.dtype.name if isinstance(value, np.ndarray) else "text"
        return f"an array of {len(value):,} {kind} values"
    return f"'{shown(value)}'" if isinstance(value, str) else f"{value}"
