"""``tokenizer.json`` as ``tokenizer.*`` metadata: byte-pair vocabularies.

Most work on bytes, written as GPT-2's characters, and cut a text by expressions; GGUF names these
(``pre``), and the name is the one whose expressions are the file's. Others are SentencePiece's in
disguise, with byte tokens for what they lack: their merges become scores.

Source: the serialisation of the package tokenizers 0.23; get_vocab_base and does_token_look_special
in conversion/base.py of llama.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from gguf_hub.errors import CheckpointError
from gguf_hub.gguf.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from gguf_hub.run.convert.checkpoint import Checkpoint, read_json, read_json_if_any
from gguf_hub.run.convert.special import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    chat_templates,
    is_id,
    notes_on_tokens_beyond,
    special_ids,
    unicode_text,
)

TOKENIZER = "tokenizer.json"
_GEMMA4 = "gemma4"
_GPT2 = PRE_TOKENIZERS["gpt-2"].expressions[0]
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_LOOKS_SPECIAL = re.compile(r"<\|.*\|>|<｜.*｜>|<unused.*>|<pad>|<mask>|<2mass>|\[@BOS@\]")
"""Added tokens that control a model though their file does not say so."""
_LEAST_SCORE = -1e9


class TokenizerFile:
    """The contents of a tokenizer.json.

    Args:
        path: The file.

    Raises:
        CheckpointError: It holds something else than a byte-pair vocabulary.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = read_json(path)
        model = self.data.get("model")
        self.model: Mapping[str, Any] = model if isinstance(model, dict) else {}
        kind = self.model.get("type", "BPE" if "merges" in self.model else None)
        if kind != "BPE":
            self.refuse(f"`model.type`: expected BPE, found {kind!r:.40}")
        vocab = self.model.get("vocab")
        if not isinstance(vocab, dict) or not all(map(is_id, vocab.values())):
            self.refuse("`model.vocab`: expected tokens and their ids")
        self.vocab: dict[str, int] = vocab

    def refuse(self, issue: str, hint: str | None = None) -> NoReturn:
        """Raise an error about the file."""
        raise CheckpointError(self.path, [issue], hint=hint)

    def _list(self, fields: Mapping[str, Any], key: str) -> list[Any]:
        stated = fields.get(key) or []
        if not isinstance(stated, list):
            self.refuse(f"`{key}`: expected a list, found {stated!r:.40}")
        return list(stated)

    def merges(self) -> list[tuple[str, str]]:
        """Return the pairs that are merged, the best first."""
        found = []
        for entry in self._list(self.model, "merges"):
            pair = entry.split(" ", 1) if isinstance(entry, str) else entry
            are_texts = isinstance(pair, list) and all(isinstance(part, str) for part in pair)
            if not are_texts or len(pair) != 2:
                self.refuse(f"`model.merges`: expected pairs of tokens, found {entry!r:.40}")
            found.append((pair[0], pair[1]))
        return found

    def added(self) -> Iterator[tuple[int, str, bool]]:
        """Yield (id, text, whether it is special) of the tokens that no merge makes."""
        for entry in self._list(self.data, "added_tokens"):
            entry = entry if isinstance(entry, dict) else {}
            i, text = entry.get("id"), entry.get("content")
            if not is_id(i) or not isinstance(text, str):
                self.refuse(f"`added_tokens`: expected ids and texts, found {entry!r:.60}")
            yield i, text, entry.get("special") is True or bool(_LOOKS_SPECIAL.fullmatch(text))

    @property
    def is_raw(self) -> bool:
        """Whether tokens are characters, with byte tokens for those that there are none for."""
        return self.model.get("byte_fallback") is True

    def adds(self, settings: Mapping[str, Any], name: str) -> bool | None:
        """Return whether a begin or end token is added to a text; None where nothing tells."""
        stated = settings.get(f"add_{name}_token")
        if isinstance(stated, bool):
            return stated
        for processor in _flat(self.data.get("post_processor"), "processors"):
            single = processor.get("single")
            if processor.get("type") == "TemplateProcessing" and isinstance(single, list):
                at = single[0 if name == "bos" else -1] if single else {}
                return isinstance(at, dict) and "SpecialToken" in at and len(single) > 1
        return None

    def expressions(self) -> tuple[str, ...]:
        """Return what a text is cut by, one expression after another."""
        found = []
        for step in _flat(self.data.get("pre_tokenizer"), "pretokenizers"):
            kind = step.get("type")
            pattern = step.get("pattern")
            if kind == "Split" and isinstance(pattern, dict) and "Regex" in pattern:
                found.append(str(pattern["Regex"]))
            elif kind == "Digits":
                found.append(r"\p{N}" if step.get("individual_digits") else r"\p{N}+")
            elif kind == "ByteLevel":
                found += [_GPT2] if step.get("use_regex", True) else []
            else:
                self.refuse(f"`pre_tokenizer`: `{kind}` is not known here", PRE_HINT)
        return tuple(found)


PRE_HINT = "name the pre-tokenizer as llama.cpp does: --pre NAME, or leave it out: --no-vocab"


def read_tokenizer_json(
    checkpoint: Checkpoint, n_vocab: int, pre: str | None
) -> tuple[dict[str, Any], list[str]]:
    """Return the ``tokenizer.*`` keys and values of a tokenizer.json, and notes.

    Args:
        checkpoint: The folder.
        n_vocab: Rows of the embedding; tokens that the vocabulary lacks are filled up as unused.
        pre: ``tokenizer.ggml.pre``; None to find it out.

    Raises:
        CheckpointError: A vocabulary of another kind, or one that cannot be read.
    """
    folder = checkpoint.folder
    file = TokenizerFile(folder / TOKENIZER)
    settings = read_json_if_any(folder / "tokenizer_config.json")
    texts, types, notes = _tokens(file, n_vocab)
    if file.is_raw:
        values = _raw(file, texts, types, is_gemma4=is_gemma4(checkpoint))
    else:
        merges = [" ".join(pair) for pair in file.merges()]
        adds_bos = file.adds(settings, "bos") is True
        values = {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre or pre_tokenizer(file, adds_bos=adds_bos),
            "tokenizer.ggml.tokens": texts,
            "tokenizer.ggml.token_type": np.array(types, np.int32),
            "tokenizer.ggml.merges": merges,
        }
    values |= special_ids(checkpoint, settings, texts, lambda name: -1)
    for name in ("bos", "eos"):
        adds = file.adds(settings, name)
        if adds is None and not file.is_raw:  # programs would add one by the pre-tokenizer's name
            adds = False
        is_known = f"tokenizer.ggml.{name}_token_id" in values
        if adds is not None and (is_known or not adds):
            values[f"tokenizer.ggml.add_{name}_token"] = adds
    return values | chat_templates(folder, settings), notes


def _tokens(file: TokenizerFile, n_vocab: int) -> tuple[list[str], list[int], list[str]]:
    """Return texts and types of all tokens, and notes on those that are left out."""
    texts, types = [f"[PAD{i}]" for i in range(n_vocab)], [int(UNUSED)] * n_vocab
    for text, i in file.vocab.items():
        if i >= n_vocab:
            file.refuse(f"token {i} is beyond `vocab_size` {n_vocab:,} of config.json")
        texts[i], types[i] = unicode_text(text, file.path, f"token {i}"), NORMAL
        if file.is_raw and _BYTE.fullmatch(text):
            types[i] = BYTE
    unknown = file.model.get("unk_token")
    if file.is_raw and isinstance(unknown, str) and unknown in file.vocab:
        types[file.vocab[unknown]] = UNKNOWN
    beyond = []
    for i, text, is_special in file.added():
        if i >= n_vocab:
            beyond.append((i, text))
            continue
        if types[i] in (UNKNOWN, BYTE):
            continue
        text = unicode_text(text, file.path, f"added token {i}")
        texts[i] = text if is_special else text.replace("▁", " ")
        types[i] = CONTROL if is_special else USER_DEFINED
    return texts, types, notes_on_tokens_beyond(beyond, n_vocab)


def is_gemma4(checkpoint: Checkpoint) -> bool:
    """Tell whether a vocabulary is Gemma 4's, which GGUF has a kind of its own for."""
    names = checkpoint.config.get("architectures")
    return isinstance(names, list) and any("Gemma4" in str(name) for name in names)


def _raw(
    file: TokenizerFile, texts: list[str], types: list[int], *, is_gemma4: bool
) -> dict[str, Any]:
    """Return the keys of a vocabulary of characters; spaces are U+2581."""
    common: dict[str, Any] = {
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
    }
    if is_gemma4:
        merges = [" ".join(pair) for pair in file.merges()]
        return {"tokenizer.ggml.model": _GEMMA4, **common, "tokenizer.ggml.merges": merges}
    # SentencePiece merges the pair whose token has the best score: the rank of its best merge
    scores = np.full(len(texts), _LEAST_SCORE, np.float32)
    for rank, (left, right) in enumerate(file.merges()):
        i = file.vocab.get(left + right)
        if i is not None and scores[i] == _LEAST_SCORE:
            scores[i] = -float(rank)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        **common,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.add_space_prefix": _puts_space(file),
    }


def _puts_space(file: TokenizerFile) -> bool:
    """Tell whether a space is put before a text."""
    steps = [*_flat(file.data.get("normalizer"), "normalizers"),
             *_flat(file.data.get("pre_tokenizer"), "pretokenizers")]  # fmt: skip
    for step in steps:
        if step.get("type") == "Prepend":
            return True
        if step.get("type") == "Metaspace":
            scheme = step.get("prepend_scheme", "always")
            return step.get("add_prefix_space", True) is True and scheme != "never"
    return False


def pre_tokenizer(file: TokenizerFile, *, adds_bos: bool) -> str:
    """Return llama.cpp's name for how a tokenizer.json cuts texts.

    Args:
        file: Its contents.
        adds_bos: Whether a text begins with the begin token.

    Raises:
        CheckpointError: No name stands for these expressions.
    """
    found, ignores = file.expressions(), file.model.get("ignore_merges") is True
    name = pre_of(found, ignore_merges=ignores, adds_bos=adds_bos)
    if name is None:
        shown = " then ".join(found)
        file.refuse(f"`pre_tokenizer`: no name is known for `{shown:.200}`", PRE_HINT)
    return str(name)


def pre_of(expressions: Sequence[str], *, ignore_merges: bool, adds_bos: bool) -> str | None:
    """Return llama.cpp's name for what cuts texts by expressions; None where there is none.

    Args:
        expressions: One after another.
        ignore_merges: Whether a word that is a token is one, whatever the merges say.
        adds_bos: Whether a text begins with the begin token.
    """
    found = tuple(map(_canonical, expressions))
    names = [name for name, entry in PRE_TOKENIZERS.items()
             if not entry.is_raw and tuple(map(_canonical, entry.expressions)) == found
             and entry.ignore_merges == ignore_merges]  # fmt: skip
    # of those that cut alike, the one that begins texts alike
    return min(names, key=lambda name: _of(name).add_bos != adds_bos, default=None)


def _of(name: str) -> PreTokenizer:
    return PRE_TOKENIZERS[name]


def _canonical(expression: str) -> str:
    """Return an expression with characters beyond ASCII as escapes."""
    return "".join(c if c.isascii() else f"\\u{ord(c):04x}" for c in expression)


def _flat(step: Any, key: str) -> Iterator[Mapping[str, Any]]:
    """Yield the steps of a sequence, or the one that there is."""
    if not isinstance(step, dict):
        return
    inner = step.get(key)
    if step.get("type") == "Sequence" and isinstance(inner, list):
        for each in inner:
            yield from _flat(each, key)
        return
    yield step
