"""Rules for the vocabulary: its arrays belong together, and special tokens lie inside of it.

Source: llama_vocab::impl::load in src/llama-vocab.cpp of llama.cpp at ggml commit c2cdd2b2.
"""

from __future__ import annotations

import re

import numpy as np

from gguf_hub.gguf.charsmap import charsmap_problem
from gguf_hub.gguf.format import Field
from gguf_hub.gguf.header import Header
from gguf_hub.gguf.hparams import ARCHITECTURE
from gguf_hub.gguf.issues import Issues
from gguf_hub.gguf.keys import OTHER_IDS, SPECIAL_IDS, expected_types, has_right_type
from gguf_hub.gguf.strings import StringArray, shown
from gguf_hub.gguf.vocabulary import BYTE_PAIR, GPT2, PREFIX, SPM, UGM

KNOWN_MODELS = frozenset(
    {"llama", "gpt2", "bert", "t5", "rwkv", "plamo2", "gemma4", "hybriddna", "whitespace",
     "no_vocab", "none"}
)  # fmt: skip
NO_TOKENS = frozenset({"no_vocab", "none"})
BYTE_TYPE = 6
_BYTE = re.compile(rb"<0x[0-9A-F]{2}>")
_LONG_BYTES = 4096


def check_tokenizer(header: Header, issues: Issues) -> None:
    """Check the tokenizer's keys against each other."""
    fields = {
        key[len(PREFIX) :]: field for key, field in header.fields.items() if key.startswith(PREFIX)
    }
    if not fields:
        if header.entries and ARCHITECTURE in header.fields:
            issues.add("GGUF-TOKENIZER-MISSING", "file", "no `tokenizer.ggml` keys")
        return
    right = {name: field for name, field in fields.items() if _check_type(name, field, issues)}
    _check_model(right, issues)
    tokens = right["tokens"].value if "tokens" in right else None
    if isinstance(tokens, StringArray):
        _check_lengths(right, len(tokens), issues)
        _check_ids(right, len(tokens), issues)
        _check_texts(tokens, issues)
        _check_bytes(right, tokens, issues)
    elif tokens is not None:
        _check_lengths(right, 0, issues)
    if ARCHITECTURE in header.fields and not {"model", "tokens"} <= fields.keys():
        model = right.get("model")
        if model is None or model.value not in NO_TOKENS:
            name = "tokens" if "model" in fields else "model"
            issues.add("GGUF-TOKENIZER-MISSING", _location(name), "missing")
    _check_scores(right, "scores" in fields, issues)
    _check_merging(fields, issues)
    _check_charsmap(right, issues)


def _location(name: str) -> str:
    return f"key `{PREFIX}{shown(name)}`"


def _check_type(name: str, field: Field, issues: Issues) -> bool:
    """Check the type that programs insist on."""
    if has_right_type(PREFIX + name, field, ""):
        return True
    expected = " or ".join(expected_types(PREFIX + name, ""))
    message = f"is {field.type_name}, expected {expected}"
    issues.add("GGUF-TOKENIZER-TYPE", _location(name), message, field.offset)
    return False


def _check_model(fields: dict[str, Field], issues: Issues) -> None:
    """Check that some program knows the tokenizer."""
    field = fields.get("model")
    if field and field.value not in KNOWN_MODELS:
        message = f"`{shown(field.value)}` is none of {', '.join(sorted(KNOWN_MODELS))}"
        issues.add("GGUF-TOKENIZER-UNKNOWN", _location("model"), message, field.offset)


def _check_lengths(fields: dict[str, Field], n_tokens: int, issues: Issues) -> None:
    """Check that there is a score and a type for every token, where there are any."""
    if n_tokens == 0:
        issues.add(
            "GGUF-TOKENIZER-EMPTY", _location("tokens"), "no tokens", fields["tokens"].offset
        )
    for name in ("scores", "token_type"):
        field = fields.get(name)
        if field and len(field.value) < n_tokens:
            message = f"{len(field.value):,} elements for {n_tokens:,} tokens"
            issues.add("GGUF-TOKENIZER-LENGTH", _location(name), message, field.offset)


def _check_scores(fields: dict[str, Field], was_there: bool, issues: Issues) -> None:
    """SentencePiece cannot choose between tokens without scores."""
    field = fields.get("scores")
    model = fields.get("model")
    if field is None:
        if model and model.value in (SPM, UGM) and "tokens" in fields and not was_there:
            issues.add("GGUF-TOKENIZER-SCORES", _location("scores"), "missing")
        return
    wrong = np.flatnonzero(~np.isfinite(field.value))
    if wrong.size:
        message = f"{wrong.size:,} scores are no finite numbers, the first is {wrong[0]:,}"
        issues.add("GGUF-TOKENIZER-SCORES", _location("scores"), message, field.offset)


def _check_merging(fields: dict[str, Field], issues: Issues) -> None:
    """Byte-pair encoding needs merges, and the expressions that cut a text into words."""
    model = fields["model"].value if "model" in fields else None
    if model not in BYTE_PAIR:
        return
    if "merges" not in fields:
        issues.add("GGUF-TOKENIZER-MERGES", _location("merges"), "missing")
    if model == GPT2 and "pre" not in fields:
        issues.add("GGUF-TOKENIZER-PRE", _location("pre"), "missing")


def _check_charsmap(fields: dict[str, Field], issues: Issues) -> None:
    """What Unigram replaces before all else has to be whole."""
    field = fields.get("precompiled_charsmap")
    model = fields.get("model")
    if field is None or model is None or model.value != UGM or len(field.value) == 0:
        return
    if problem := charsmap_problem(field.value.tobytes()):
        location = _location("precompiled_charsmap")
        issues.add("GGUF-TOKENIZER-CHARSMAP", location, problem, field.offset)


def _check_ids(fields: dict[str, Field], n_tokens: int, issues: Issues) -> None:
    """Check that special tokens are tokens."""
    for name in (*SPECIAL_IDS, *OTHER_IDS):
        field = fields.get(f"{name}_token_id")
        if field and field.value >= n_tokens:
            message = f"token {field.value:,} of {n_tokens:,}"
            issues.add("GGUF-TOKENIZER-ID", _location(f"{name}_token_id"), message, field.offset)


def _check_texts(tokens: StringArray, issues: Issues) -> None:
    """Check the texts of tokens, without decoding them one by one."""
    lengths = tokens.lengths()
    for code, ids, what in (
        ("EMPTY", np.flatnonzero(lengths == 0), "has no text"),
        ("LONG", np.flatnonzero(lengths > _LONG_BYTES), f"is longer than {_LONG_BYTES:,} bytes"),
        ("UTF8", tokens.not_utf8(), "is not UTF-8"),
    ):
        if len(ids):
            more = f" (and {len(ids) - 1:,} more)" if len(ids) > 1 else ""
            message = f"token {ids[0]:,} {what}{more}"
            issues.add(f"GGUF-TOKENIZER-TOKEN-{code}", _location("tokens"), message)
    _check_twins(tokens, issues)


def _check_twins(tokens: StringArray, issues: Issues) -> None:
    """Check that no two tokens have the same text: llama.cpp ends itself then."""
    ids: dict[bytes, int] = {}
    for i, raw in enumerate(tokens.iter_bytes()):
        if raw and (first := ids.setdefault(raw, i)) != i:
            message = f"tokens {first:,} and {i:,} are both `{shown(tokens[i])}`"
            issues.add("GGUF-TOKENIZER-TOKEN-TWINS", _location("tokens"), message)
            return


def _check_bytes(fields: dict[str, Field], tokens: StringArray, issues: Issues) -> None:
    """Check that byte tokens name a byte."""
    field = fields.get("token_type")
    if field is None:
        return
    for i in np.flatnonzero(field.value[: len(tokens)] == BYTE_TYPE):
        raw = tokens.bytes_at(int(i))
        if not _BYTE.fullmatch(raw):
            message = (
                f"byte token {i:,} is `{shown(tokens[int(i)])}`, expected `<0x00>` to `<0xFF>`"
            )
            issues.add("GGUF-TOKENIZER-BYTE", _location("tokens"), message)
