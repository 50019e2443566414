"""What vocabularies of all kinds share: special tokens, chat templates, texts that are none.

Source: SpecialVocab of gguf-py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from gguf_hub.errors import CheckpointError
from gguf_hub.gguf.vocabulary import TokenType
from gguf_hub.run.convert.checkpoint import Checkpoint, read_json_if_any

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = TokenType

_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Name in the JSON files -> name in GGUF."""
_MAX_DIGITS = 20


def is_id(value: Any) -> TypeGuard[int]:
    """Tell whether a value of a JSON file is an integer of at least 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def unicode_text(text: str, folder: Path, label: str) -> str:
    """Return a text; refuse what JSON can say and UTF-8 cannot: half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise CheckpointError(folder, [f"{label} is no Unicode text: {text[exc.start]!r}"]) from exc
    return text


def added_tokens(folder: Path, settings: Mapping[str, Any]) -> Iterator[tuple[int, str, bool]]:
    """Yield (id, text, whether it is special) of all added tokens."""
    for text, i in read_json_if_any(folder / "added_tokens.json").items():
        if isinstance(i, int):
            yield i, unicode_text(text, folder, f"added token {i}"), False
    decoder = settings.get("added_tokens_decoder")
    for key, token in decoder.items() if isinstance(decoder, dict) else ():
        content = token.get("content") if isinstance(token, dict) else None
        if key.isdecimal() and isinstance(content, str):
            # longer than any id: Python refuses to read thousands of digits
            i = int(key[:_MAX_DIGITS])
            yield i, unicode_text(content, folder, f"added token {i}"), token.get("special") is True


def notes_on_tokens_beyond(beyond: Sequence[tuple[int, str]], n_vocab: int) -> list[str]:
    """Return a note on tokens, ids and texts, that have no embedding; none where there are none.

    They are left out, as by llama.cpp's converter.
    """
    if not beyond:
        return []
    (i, text), *more = beyond
    also = f" and {len(more)} more" if more else ""
    return [
        f"added token `{text:.40}` has id {i}{also}, but the model only knows ids up to "
        f"{n_vocab - 1}: left out"
    ]


def special_ids(
    checkpoint: Checkpoint,
    settings: Mapping[str, Any],
    texts: Sequence[str],
    fallback: Callable[[str], int],
) -> dict[str, int]:
    """Return the keys of special tokens and their ids.

    Args:
        checkpoint: Whose config.json counts after the settings.
        settings: Contents of tokenizer_config.json.
        texts: Of all tokens.
        fallback: The id for ``bos``, ``eos``, ``unk`` and ``pad`` where neither says one, or -1.
    """
    ids = {}
    for name, gguf_name in _SPECIAL.items():
        text = settings.get(f"{name}_token")
        text = text.get("content") if isinstance(text, dict) else text
        value = checkpoint.config.get(f"{name}_token_id")
        if isinstance(text, str) and text in texts:
            i = texts.index(text)
        elif isinstance(value, int) and not isinstance(value, bool):
            i = value
        else:
            i = fallback(name)
        if 0 <= i < len(texts):  # -1: there is none
            ids[f"tokenizer.ggml.{gguf_name}_token_id"] = i
    return ids


def chat_templates(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of the chat templates: the default one, and others by their names.

    A file ``chat_template.jinja`` comes before the settings, as in transformers.
    """
    stated = settings.get("chat_template")
    entries = stated if isinstance(stated, list) else [{"name": "default", "template": stated}]
    named = {
        str(entry.get("name")): entry.get("template")
        for entry in entries
        if isinstance(entry, dict)
    }
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            named["default"] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as exc:
            raise CheckpointError(path, [f"cannot be read as text: {exc}"]) from exc
    texts = {
        name: unicode_text(text, folder, "the chat template")
        for name, text in named.items()
        if isinstance(text, str)
    }
    default = texts.pop("default", "")
    values: dict[str, Any] = {"tokenizer.chat_template": default} if default else {}
    others = {re.sub(r"[^A-Za-z0-9]", "_", name): text for name, text in texts.items()}
    if others:  # spelled as by llama.cpp's converter
        values["tokenizer.chat_templates"] = list(others)
    return values | {f"tokenizer.chat_template.{name}": text for name, text in others.items()}
