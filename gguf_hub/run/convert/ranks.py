"""Vocabularies as tiktoken has them: strings of bytes and their ranks, without merges.

Mistral's ``tekken.json`` tells its pattern and its special tokens, too. ``tiktoken.model`` and
files like it are lines of base64 and a rank; special tokens stand in tokenizer_config.json, and the
pattern in Python code beside it, which is not run.

tiktoken merges the two neighbours whose union has the lowest rank. GGUF asks for the merges
themselves: a token's is the last one that makes it of its bytes by unions of lower rank.

Source: ``Tekkenizer`` of mistral-common 1.13; ``load_tiktoken_bpe`` and ``bpe_encode`` of tiktoken
0.14; the pattern of tokenization_kimi.py of Kimi K2.
"""

from __future__ import annotations

import base64
import binascii
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from gguf_hub.errors import CheckpointError
from gguf_hub.gguf.vocabulary import ALPHABET
from gguf_hub.run.convert.checkpoint import Checkpoint, read_json, read_json_if_any
from gguf_hub.run.convert.special import (
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    added_tokens,
    chat_templates,
    is_id,
    notes_on_tokens_beyond,
    special_ids,
    unicode_text,
)
from gguf_hub.run.convert.tokenizer_json import PRE_HINT, TOKENIZER, pre_of

TEKKEN = "tekken.json"
TIKTOKEN = "tiktoken.model"

_PRE = {TIKTOKEN: "kimi-k2"}
"""What is known of files that do not tell their pattern: Moonshot's alone has this name."""
_TEKKEN_SPECIAL = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]",
    "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
)  # fmt: skip
"""Those of files that list none."""
_TEKKEN_IDS = {"unk": "<unk>", "bos": "<s>", "eos": "</s>", "pad": "<pad>"}
_MAX_TOKENS = 1 << 24
_MAX_DIGITS = 9
_MAX_BYTES = 1024
"""Of a token: 256 in what is published. The time for its merge grows with the square."""


@dataclass(frozen=True)
class RankedVocabulary:
    """What such a file holds.

    Attributes:
        path: The file.
        ranks: String of bytes -> rank; all 256 bytes are there.
        first: Id of rank 0.
        special: Id -> (text, whether it controls the model).
        pattern: What cuts a text; None where the file does not tell.
    """

    path: Path
    ranks: Mapping[bytes, int]
    first: int
    special: Mapping[int, tuple[str, bool]]
    pattern: str | None


def ranked_file(folder: Path) -> Path | None:
    """Return the file of such a vocabulary in a checkpoint's folder, if there is one."""
    for name in (TEKKEN, TIKTOKEN):
        if (folder / name).is_file():
            return folder / name
    others = sorted(folder.glob("*.tiktoken"))
    return others[0] if others else None


def read_ranked(
    checkpoint: Checkpoint, path: Path, n_vocab: int, pre: str | None
) -> tuple[dict[str, Any], list[str]]:
    """Return the ``tokenizer.*`` keys and values of such a vocabulary, and notes.

    Args:
        checkpoint: The folder.
        path: What ``ranked_file`` found.
        n_vocab: Rows of the embedding; tokens that the vocabulary lacks are filled up as unused.
        pre: ``tokenizer.ggml.pre``; None to find it out.

    Raises:
        CheckpointError: It cannot be read, or what it lacks is told nowhere else.
    """
    settings = read_json_if_any(checkpoint.folder / "tokenizer_config.json")
    is_tekken = path.name == TEKKEN
    read = _read_tekken(path) if is_tekken else _read_tiktoken(path, settings)
    texts, types, notes = _tokens(read, n_vocab)
    own = _TEKKEN_IDS if is_tekken else {}
    ids = special_ids(
        checkpoint, settings, texts,
        lambda name: texts.index(own[name]) if own.get(name) in texts else -1,
    )  # fmt: skip
    end = ids.get("tokenizer.ggml.eos_token_id")
    if end is None or types[end] not in (CONTROL, USER_DEFINED):
        _refuse(path, f"no end token: special tokens {_IN_CODE}", _NO_END_HINT)
    values: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre or _pre(read, adds_bos=is_tekken),
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.merges": [" ".join(map(_characters, pair)) for pair in merges(read.ranks)],
        **ids,
    }
    for name in ("bos", "eos"):
        adds = settings.get(f"add_{name}_token")
        default = is_tekken and name == "bos"
        values[f"tokenizer.ggml.add_{name}_token"] = adds if isinstance(adds, bool) else default
    templates = chat_templates(checkpoint.folder, settings)
    if is_tekken and not templates:
        notes.append(_template_note(path))
    return values | templates, notes


_IN_CODE = "stand in the checkpoint's own Python code, which is not run"
_NO_END_HINT = (
    f"put the model's {TOKENIZER} into the folder, or convert the weights alone: --no-vocab"
)


def merges(ranks: Mapping[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the pairs that tiktoken merges, the best first.

    Args:
        ranks: String of bytes -> rank. One that unions of lower rank do not make has no merge:
            tiktoken finds it as a whole word alone.
    """
    for token in sorted(ranks, key=ranks.__getitem__):
        if len(token) > 1:
            parts = _parts(token, ranks)
            if len(parts) == 2:
                yield parts[0], parts[1]


def _parts(token: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """Return what is left of a token's bytes when only unions of lower rank were made."""
    parts = [token[i : i + 1] for i in range(len(token))]
    none = ranks[token]
    while len(parts) > 2:
        unions = (ranks.get(a + b, none) for a, b in itertools.pairwise(parts))
        rank, at = min(zip(unions, itertools.count(), strict=False))  # of equal ones the first
        if rank >= none:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _tokens(read: RankedVocabulary, n_vocab: int) -> tuple[list[str], list[int], list[str]]:
    """Return texts and types of all tokens, and notes on those that are left out."""
    texts, types = [f"[PAD{i}]" for i in range(n_vocab)], [int(UNUSED)] * n_vocab
    beyond = []
    for token, rank in read.ranks.items():
        i = read.first + rank
        if i >= n_vocab:
            _refuse(read.path, f"token {i} is beyond `vocab_size` {n_vocab:,} of config.json")
        texts[i], types[i] = _characters(token), NORMAL
    for i, (text, controls) in read.special.items():
        if i >= n_vocab:
            beyond.append((i, text))
            continue
        texts[i], types[i] = text, CONTROL if controls else USER_DEFINED
    return texts, types, notes_on_tokens_beyond(beyond, n_vocab)


def _characters(token: bytes) -> str:
    """Return bytes in GPT-2's alphabet."""
    return "".join(map(ALPHABET.__getitem__, token))


def _pre(read: RankedVocabulary, *, adds_bos: bool) -> str:
    if read.pattern is None:
        known = _PRE.get(read.path.name)
        return known or _refuse(read.path, f"the expressions that cut a text {_IN_CODE}", PRE_HINT)
    name = pre_of((read.pattern,), ignore_merges=True, adds_bos=adds_bos)
    return name or _refuse(
        read.path, f"`config.pattern`: no name is known for `{read.pattern:.200}`", PRE_HINT
    )


# -- tekken.json -----------------------------------------------------------------------------------


def _read_tekken(path: Path) -> RankedVocabulary:
    data = read_json(path)
    config = data.get("config")
    config = config if isinstance(config, dict) else {}
    n_special = _count(path, config, "default_num_special_tokens")
    n_ranks = _count(path, config, "default_vocab_size") - n_special
    pattern = config.get("pattern")
    if not isinstance(pattern, str):
        _refuse(path, f"`config.pattern`: expected an expression, found {pattern!r:.40}")
    ranks: dict[bytes, int] = {}
    for entry in _entries(path, data, "vocab"):
        rank, text = entry.get("rank"), entry.get("token_bytes")
        if not is_id(rank) or not isinstance(text, str):
            _refuse(path, f"`vocab`: expected ranks and bytes, found {entry!r:.60}")
        if rank < n_ranks:  # files list more than models have
            _add(path, ranks, text, rank)
    special = {i: (f"<SPECIAL_{i}>", True) for i in range(n_special)}
    listed = data.get("special_tokens")
    if listed is None:
        special |= {i: (text, True) for i, text in enumerate(_TEKKEN_SPECIAL[:n_special])}
    for entry in _entries(path, data, "special_tokens") if listed is not None else ():
        i, text = entry.get("rank"), entry.get("token_str")
        if not is_id(i) or i >= n_special or not isinstance(text, str):
            _refuse(path, f"`special_tokens`: expected ranks below {n_special:,} and texts, found "
                    f"{entry!r:.60}")  # fmt: skip
        special[i] = (
            unicode_text(text, path, f"special token {i}"),
            entry.get("is_control") is True,
        )
    return _checked(RankedVocabulary(path, ranks, n_special, special, pattern))


def _count(path: Path, config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if not is_id(value) or value > _MAX_TOKENS:
        _refuse(path, f"`config.{key}`: expected a number of tokens, found {value!r:.40}")
    return int(value)


def _entries(path: Path, data: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
    value = data.get(key)
    if not isinstance(value, list):
        _refuse(path, f"`{key}`: expected a list, found {value!r:.40}")
    for entry in value:
        yield entry if isinstance(entry, dict) else {}


def _template_note(path: Path) -> str:
    config = read_json(path).get("config")
    version = str(config.get("version")) if isinstance(config, dict) else ""
    name = "mistral-v3-tekken" if version == "v3" else "mistral-v7-tekken"
    return f"{TEKKEN} has no chat template; for a chat model: `--chat-template {name}`"


# -- tiktoken --------------------------------------------------------------------------------------


def _read_tiktoken(path: Path, settings: Mapping[str, Any]) -> RankedVocabulary:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line:
            continue
        text, _, rank = line.partition(b" ")
        if not rank.isdigit() or len(rank) > _MAX_DIGITS:
            _refuse(path, f"line {number}: expected base64 and a rank, found {line[:40]!r}")
        _add(path, ranks, text, int(rank))
    special = {i: (text, controls) for i, text, controls in added_tokens(path.parent, settings)}
    return _checked(RankedVocabulary(path, ranks, 0, special, None))


def _checked(read: RankedVocabulary) -> RankedVocabulary:
    """Refuse ranks that do not stand for ids, and bytes without a token."""
    n = len(read.ranks)
    if n == 0 or set(read.ranks.values()) != set(range(n)):
        _refuse(read.path, f"expected ranks from 0 on, each once, found {n:,} of them")
    lacks = sorted(byte for byte in range(256) if bytes([byte]) not in read.ranks)
    if lacks:
        _refuse(read.path, f"expected a token for each byte, found none for {lacks[0]:#04x}")
    return read


def _add(path: Path, ranks: dict[bytes, int], text: str | bytes, rank: int) -> None:
    try:
        token = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        token = b""
    if not token or token in ranks:
        _refuse(path, f"rank {rank}: expected base64 of bytes that occur once, found {text!r:.60}")
    if len(token) > _MAX_BYTES:
        _refuse(path, f"rank {rank}: expected at most {_MAX_BYTES:,} bytes, found {len(token):,}")
    ranks[token] = rank


def _refuse(path: Path, issue: str, hint: str | None = None) -> NoReturn:
    raise CheckpointError(path, [issue], hint=hint)
