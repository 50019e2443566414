"""The vocabulary of a checkpoint as ``tokenizer.*`` metadata.

Pieces and scores come from ``tokenizer.model`` (SentencePiece); what was added later, which special
tokens there are, and the chat template from the JSON files beside it. Where there is no such file,
all of it comes from ``tokenizer.json``; where there is none either, from ``tekken.json`` or a file
of tiktoken.

Source: ``_create_vocab_sentencepiece`` in conversion/base.py of llama.cpp at 00bd27a6, and
SpecialVocab of gguf-py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gguf_hub.errors import CheckpointError
from gguf_hub.run.convert.checkpoint import Checkpoint, read_json_if_any
from gguf_hub.run.convert.extra import require
from gguf_hub.run.convert.ranks import TEKKEN, ranked_file, read_ranked
from gguf_hub.run.convert.special import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    added_tokens,
    chat_templates,
    notes_on_tokens_beyond,
    special_ids,
)
from gguf_hub.run.convert.tokenizer_json import TOKENIZER, is_gemma4, read_tokenizer_json

MODEL = "tokenizer.model"

_ADDED_SCORE = -1000.0
_FILLER_SCORE = -10000.0


@dataclass
class _Pieces:
    """One entry for each token."""

    texts: list[str]
    scores: list[float]
    types: list[int]


def no_vocabulary() -> dict[str, Any]:
    """Return the metadata of a file without vocabulary: it computes token ids, and no text."""
    return {"tokenizer.ggml.model": "no_vocab"}


def read_vocabulary(
    checkpoint: Checkpoint, n_vocab: int, *, pre: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Return the ``tokenizer.*`` keys and values of a checkpoint, and notes on what is left out.

    Args:
        checkpoint: The folder.
        n_vocab: Rows of the embedding; tokens that the vocabulary lacks are filled up as unused.
        pre: ``tokenizer.ggml.pre`` of a byte-pair vocabulary; None to find it out.

    Raises:
        CheckpointError: No vocabulary, one that cannot be read, or one that is too large.
    """
    folder = checkpoint.folder
    has_model = (folder / MODEL).is_file() and not is_gemma4(checkpoint)
    if not has_model and (folder / TOKENIZER).is_file():
        return read_tokenizer_json(checkpoint, n_vocab, pre)
    if not has_model and (path := ranked_file(folder)):
        return read_ranked(checkpoint, path, n_vocab, pre)
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
    values |= special_ids(
        checkpoint, settings, pieces.texts, lambda name: int(getattr(processor, f"{name}_id")())
    )
    for name in ("add_bos_token", "add_eos_token"):
        if isinstance(settings.get(name), bool):
            values[f"tokenizer.ggml.{name}"] = settings[name]
    values |= _space_prefix(settings, processor)
    return values | chat_templates(folder, settings), notes


def _open_model(folder: Path) -> Any:
    path = folder / MODEL
    if not path.is_file():
        raise CheckpointError(
            folder,
            [f"no `{MODEL}`, `{TOKENIZER}` or `{TEKKEN}`"],
            hint=f"put the model's {TOKENIZER} or {MODEL} into the folder, or convert the weights "
            "alone: --no-vocab",
        )
    sentencepiece = require("sentencepiece")
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
    except (RuntimeError, OSError) as exc:
        hint = "expected a SentencePiece model; without it, tokenizer.json is read"
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
        [_type(processor, i) for i in range(n)] + [UNUSED for _ in fillers],
    )


def _type(processor: Any, i: int) -> int:
    if processor.is_unknown(i):
        return UNKNOWN
    if processor.is_control(i):
        return CONTROL
    if processor.is_unused(i):
        return UNUSED
    return BYTE if processor.is_byte(i) else NORMAL


def _add_tokens(pieces: _Pieces, folder: Path, settings: Mapping[str, Any]) -> list[str]:
    """Add the tokens that were added after SentencePiece was trained.

    Those that have no embedding are left out, as by llama.cpp's converter, with a note.
    """
    beyond = []
    for i, text, is_special in added_tokens(folder, settings):
        if i >= len(pieces.texts):
            beyond.append((i, text))
            continue
        # what SentencePiece itself calls unknown, control or a byte stays that
        if pieces.types[i] in (NORMAL, USER_DEFINED, UNUSED):
            pieces.types[i] = CONTROL if is_special else USER_DEFINED
            pieces.texts[i] = text if is_special else text.replace("▁", " ")
            pieces.scores[i] = _ADDED_SCORE
    return notes_on_tokens_beyond(beyond, len(pieces.texts))


def _space_prefix(settings: Mapping[str, Any], processor: Any) -> dict[str, bool]:
    """Return whether a space is put before a text; empty for the default, yes."""
    value = settings.get("add_prefix_space")
    if isinstance(value, bool):
        return {"tokenizer.ggml.add_space_prefix": value}
    if processor.encode("a", out_type=str)[0].startswith("▁"):
        return {}
    return {"tokenizer.ggml.add_space_prefix": False}
