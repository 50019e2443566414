"""What callers give as prompts, tokens and stop texts: checked, never taken for something else."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from gguf_hub.api.llama.parts import LlamaTypeError, LlamaValueError

_BYTES = (bytes, bytearray, memoryview)


def token_ids(name: str, value: Iterable[Any]) -> list[int]:
    """Return token ids as a list.

    Args:
        name: What they are, for the message.
        value: The ids.

    Raises:
        LlamaTypeError: It is not a sequence of integers; bytes are text, not ids.
    """
    if isinstance(value, (str, *_BYTES)) or not isinstance(value, Iterable):
        raise LlamaTypeError(f"{name}: expected token ids, found {_kind(value)}")
    ids: list[int] = []
    for i, item in enumerate(value):
        try:
            ids.append(operator.index(item))
        except TypeError as exc:
            raise LlamaTypeError(
                f"{name}: expected a token id at position {i}, found {_kind(item)}",
                hint="several prompts take one call each" if name == "prompt" else None,
            ) from exc
    return ids


def prompt_of(value: Any) -> str | list[int]:
    """Return a prompt as text or token ids.

    Raises:
        LlamaTypeError: It is neither.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, _BYTES) or not isinstance(value, Iterable):
        raise LlamaTypeError(
            f"prompt: expected text or token ids, found {_kind(value)}",
            hint="decode them, or give `tokenize(prompt)`" if isinstance(value, _BYTES) else None,
        )
    return token_ids("prompt", value)


def text_bytes(value: Any) -> bytes | str:
    """Return text to tokenize.

    Raises:
        LlamaTypeError: It is neither text nor bytes.
    """
    if isinstance(value, (str, bytes)):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise LlamaTypeError(f"text: expected text or bytes, found {_kind(value)}")


def stop_texts(value: Any) -> list[str]:
    """Return texts that end an output as a list.

    Raises:
        LlamaTypeError: One is no text.
        LlamaValueError: One is empty, so that no output could begin.
    """
    if not value:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, _BYTES) or not isinstance(value, Iterable):
        raise LlamaTypeError(f"stop: expected texts, found {_kind(value)}")
    for i, text in enumerate(value):
        if not isinstance(text, str):
            raise LlamaTypeError(f"stop: expected a text at position {i}, found {_kind(text)}")
        if not text:
            raise LlamaValueError(
                f"stop: expected a text at position {i}, found an empty one",
                hint="leave it out: an empty text stops every output before its first character",
            )
    return list(value)


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__
