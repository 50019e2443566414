"""The vocabulary of a checkpoint as ``tokenizer.*`` metadata.

Pieces and scores come from ``tokenizer.model`` (SentencePiece); what was added later, which special
tokens there are, and the chat template from the JSON files beside it.

Source: ``_create_vocab_sentencepiece`` in conversion/base.py of llama.cpp at 00bd27a6, and
SpecialVocab of gguf-py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gguf_hub.errors import CheckpointError
from gguf_hub.run.convert.checkpoint import Checkpoint, read_json_if_any
from gguf_hub.run.convert.extra import require

MODEL = "tokenizer.model"

# tokenizer.ggml.token_type
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)

_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Name in the JSON files -> name in GGUF."""
_ADDED_SCORE = -1000.0
_FILLER_SCORE = -10000.0
_MAX_DIGITS = 20


@dataclass
class _Pieces:
    """One entry for each token."""

    texts: list[str]
    scores: list[float]
    types: list[int]


def no_vocabulary() -> dict[str, Any]:
    """Return the metadata of a file without vocabulary: it computes token ids, and no text."""
    return {"tokenizer.ggml.model": "no_vocab"}


def read_vocabulary(checkpoint: Checkpoint, n_vocab: int) -> tuple[dict[str, Any], list[str]]:
    """Return the ``tokenizer.*`` keys and values of a checkpoint, and notes on what is left out.

    Args:
        checkpoint: The folder.
        n_vocab: Rows of the embedding; tokens that the vocabulary lacks are filled up as unused.

    Raises:
        CheckpointError: No vocabulary, one that cannot be read, or one that is too large.
    """
    folder = checkpoint.folder
    processor = _open_model(folder)
    settings = read_json_if_any(folder / "tokenizer_config.json")
    pieces = _pieces(processor, n_vocab, folder)
    notes = _add_tokens(pieces, folder, settings)
    values: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": pieces.texts,
        "tokenizer.ggml.scores": np.array(pieces.scores, np.float32),
        "tokenizer.ggml.token_type": np.array(pieces.types, np.int32),
    }
    values |= _special_ids(checkpoint, settings, processor, pieces)
    for name in ("add_bos_token", "add_eos_token"):
        if isinstance(settings.get(name), bool):
            values[f"tokenizer.ggml.{name}"] = settings[name]
    values |= _space_prefix(settings, processor)
    return values | _chat_templates(folder, settings), notes


def _open_model(folder: Path) -> Any:
    path = folder / MODEL
    if not path.is_file():
        has_json = (folder / "tokenizer.json").is_file()
        note = " (`tokenizer.json` alone is not read)" if has_json else ""
        raise CheckpointError(
            folder,
            [f"no `{MODEL}`{note}"],
            hint=f"put the model's {MODEL} into the folder, or convert the weights alone: "
            "--no-vocab",
        )
    sentencepiece = require("sentencepiece")
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
    except (RuntimeError, OSError) as exc:
        hint = "expected a SentencePiece model; Llama 3 and other vocabularies are of another kind"
        raise CheckpointError(path, ["not a SentencePiece model"], hint=hint) from exc


def _pieces(processor: Any, n_vocab: int, folder: Path) -> _Pieces:
    """Return the SentencePiece vocabulary, filled up to ``n_vocab``."""
    n = processor.get_piece_size()
    if n > n_vocab:
        issue = f"{n:,} pieces, but config.json says `vocab_size` {n_vocab:,}"
        raise CheckpointError(folder / MODEL, [issue])
    fillers = range(n, n_vocab)
    return _Pieces(
        [processor.id_to_piece(i) for i in range(n)] + [f"[PAD{i}]" for i in fillers],
        [processor.get_score(i) for i in range(n)] + [_FILLER_SCORE for _ in fillers],
        [_type(processor, i) for i in range(n)] + [_UNUSED for _ in fillers],
    )


def _type(processor: Any, i: int) -> int:
    if processor.is_unknown(i):
        return _UNKNOWN
    if processor.is_control(i):
        return _CONTROL
    if processor.is_unused(i):
        return _UNUSED
    return _BYTE if processor.is_byte(i) else _NORMAL


def _add_tokens(pieces: _Pieces, folder: Path, settings: Mapping[str, Any]) -> list[str]:
    """Add the tokens that were added after SentencePiece was trained.

    Those that have no embedding are left out, as by llama.cpp's converter, with a note.
    """
    beyond: dict[int, str] = {}
    for i, text, is_special in _added_tokens(folder, settings):
        if not 0 <= i < len(pieces.texts):
            beyond[i] = text
            continue
        # what SentencePiece itself calls unknown, control or a byte stays that
        if pieces.types[i] in (_NORMAL, _USER_DEFINED, _UNUSED):
            pieces.types[i] = _CONTROL if is_special else _USER_DEFINED
            pieces.texts[i] = text if is_special else text.replace("▁", " ")
            pieces.scores[i] = _ADDED_SCORE
    if not beyond:
        return []
    (i, text), *more = beyond.items()
    also = f" and {len(more)} more" if more else ""
    return [
        f"added token `{text:.40}` has id {i}{also}, but the model only knows ids up to "
        f"{len(pieces.texts) - 1}: left out"
    ]


def _added_tokens(folder: Path, settings: Mapping[str, Any]) -> Iterator[tuple[int, str, bool]]:
    """Yield (id, text, whether it is special) of all added tokens."""
    for text, i in read_json_if_any(folder / "added_tokens.json").items():
        if isinstance(i, int):
            yield i, _unicode(text, folder, f"added token {i}"), False
    decoder = settings.get("added_tokens_decoder")
    for key, token in decoder.items() if isinstance(decoder, dict) else ():
        content = token.get("content") if isinstance(token, dict) else None
        if key.isdecimal() and isinstance(content, str):
            # longer than any id: Python refuses to read thousands of digits
            i = int(key[:_MAX_DIGITS])
            yield i, _unicode(content, folder, f"added token {i}"), token.get("special") is True


def _unicode(text: str, folder: Path, label: str) -> str:
    """Return a text; refuse what JSON can say and UTF-8 cannot: half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise CheckpointError(folder, [f"{label} is no Unicode text: {text[exc.start]!r}"]) from exc
    return text


def _space_prefix(settings: Mapping[str, Any], processor: Any) -> dict[str, bool]:
    """Return whether a space is put before a text; empty for the default, yes."""
    value = settings.get("add_prefix_space")
    if isinstance(value, bool):
        return {"tokenizer.ggml.add_space_prefix": value}
    if processor.encode("a", out_type=str)[0].startswith("▁"):
        return {}
    return {"tokenizer.ggml.add_space_prefix": False}


def _special_ids(
    checkpoint: Checkpoint, settings: Mapping[str, Any], processor: Any, pieces: _Pieces
) -> dict[str, int]:
    """Return the ids of special tokens: by text, by config.json, or by SentencePiece."""
    ids = {}
    for name, gguf_name in _SPECIAL.items():
        text = settings.get(f"{name}_token")
        text = text.get("content") if isinstance(text, dict) else text
        value = checkpoint.config.get(f"{name}_token_id")
        if isinstance(text, str) and text in pieces.texts:
            i = pieces.texts.index(text)
        elif isinstance(value, int) and not isinstance(value, bool):
            i = value
        else:
            i = getattr(processor, f"{name}_id")()
        if 0 <= i < len(pieces.texts):  # -1: there is none
            ids[f"tokenizer.ggml.{gguf_name}_token_id"] = i
    return ids


def _chat_templates(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
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
        name: _unicode(text, folder, "the chat template")
        for name, text in named.items()
        if isinstance(text, str)
    }
    default = texts.pop("default", "")
    values: dict[str, Any] = {"tokenizer.chat_template": default} if default else {}
    others = {re.sub(r"[^A-Za-z0-9]", "_", name): text for name, text in texts.items()}
    if others:  # spelled as by llama.cpp's converter
        values["tokenizer.chat_templates"] = list(others)
    return values | {f"tokenizer.chat_template.{name}": text for name, text in others.items()}
