"""Asks llama.cpp for the ids of texts in small vocabularies of encoders: the archive ``pieces``.

Run by hand where llama-cpp-python and sentencepiece are installed, from the root of the repository:

    python -m tools.llama_cpp_tokens tests/data/pieces.tar.xz
"""

from __future__ import annotations

import ctypes
import io
import json
import random
import string
import sys
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gguf_hub.gguf.format import Field
from gguf_hub.gguf.writer import write_gguf
from tests.reference import reference_data
from tools.llama_cpp_logits import write_archive

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
N_RECORDED, N_RANDOM = 180, 130
_ALPHABETS = (
    string.ascii_letters, string.ascii_lowercase + " ", " ", " \t\n\r\v\f\x85\xa0\u2003\u3000",
    string.punctuation, "0123456789", "äöüßéèñçÅØİıŁ", "\u0301\u0308\u0323\u093e\u200d\ufe0f",
    "абвГДЕёй", "αβΓΔΏς", "漢字中文語", "かなカナガパ", "한국어각", "क्षिहन्दी", "مرحبا",
    "😀👍🏽🇩🇪👩", "①½ﬁＡｂ㌔™Ⅳ", "\0\x07\x1c\xad\u200b\ufeff\ufffd\ue000", "▁_#",
    "«»“”…—。、！？¡¿",
)  # fmt: skip
_MARKUP = ("<mask>", "<extra_id_0>", "<ex", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>", "<unk>",
           "<tag é>", "[UNK]", "<0x41>", "<never>", "<unused1>")  # fmt: skip


# -- texts -----------------------------------------------------------------------------------


def texts() -> list[str]:
    """Return texts of the archive ``bpe``, some prose and random ones."""
    recorded = json.loads((reference_data() / "bpe" / "gpt-oss.json").read_text("utf-8"))["cases"]
    lines = (reference_data() / "text" / "botchan.txt").read_text("utf-8").split("\n")
    of_bpe = [case["text"] for case in recorded[:N_RECORDED]]
    return [*of_bpe, *lines[5:400:40], *random_texts(N_RANDOM, 1)]


def random_texts(n: int, seed: int) -> list[str]:
    """Return texts of characters of many kinds, all of them as old as Unicode 3.2 or common."""
    rng = random.Random(seed)
    return [_random_text(rng) for _ in range(n)]


def _random_text(rng: random.Random) -> str:
    parts: list[str] = []
    for _ in range(rng.randint(1, 6)):
        kind = rng.random()
        if kind < 0.1:
            parts.append(rng.choice(_MARKUP))
        elif kind < 0.3:
            parts += [_old_character(rng) for _ in range(rng.randint(1, 4))]
        else:
            parts += rng.choices(rng.choice(_ALPHABETS), k=rng.randint(1, 8))
    return "".join(parts)


def _old_character(rng: random.Random) -> str:
    """Return a character that every version of Python knows."""
    while True:
        character = chr(rng.choice((rng.randrange(0x3000), rng.randrange(0x30000))))
        if unicodedata.ucd_3_2_0.category(character) not in ("Cn", "Cs"):
            return character


# -- vocabularies ----------------------------------------------------------------------------


def vocabularies() -> dict[str, dict[str, Any]]:
    """Return the metadata of each vocabulary, under ``tokenizer.ggml.``, by a name of its own."""
    return {
        "wordpiece": _wordpiece(),
        "wordpiece-cased": _wordpiece_cased(),
        "wordpiece-accents": _wordpiece() | {"normalizer.strip_accents": False},
        "unigram": _unigram(),
        "unigram-spaces": _unigram_spaces(),
        "unigram-bare": _unigram_bare(),
        "whitespace": _whitespace(),
    }


def _words() -> list[str]:
    """Return what WordPiece cuts words into: prose, and characters of every alphabet."""
    prose = (reference_data() / "text" / "botchan.txt").read_text("utf-8")[:60_000].lower()
    counts = Counter("".join(c if c.isalpha() else " " for c in prose).split())
    words = [f"▁{word}" for word, n in counts.most_common(150) if n > 1]
    endings = Counter(word[-n:] for word in counts for n in (2, 3) if len(word) > n)
    alphabet = dict.fromkeys("".join(_ALPHABETS) + "abcdefghijklmnopqrstuvwxyz가ᄒᆞᆫ")
    characters = [c for c in alphabet if not c.isspace() and c not in "\0▁ßø\U0001f44d"]
    return [
        *words, *(ending for ending, _ in endings.most_common(60)), *(f"▁{c}" for c in characters),
        *(c for c in characters if c.isalnum()), "▁漢", "▁naïve", "▁naive", "▁été", "▁Été",
    ]  # fmt: skip


def _wordpiece() -> dict[str, Any]:
    """One as BERT has it, with special tokens where they are by default."""
    unused = {f"[unused{i}]": NORMAL for i in range(1, 100)}
    special = dict.fromkeys(("[UNK]", "[CLS]", "[SEP]", "[MASK]"), CONTROL)
    types = {"[PAD]": CONTROL, **unused, **special, **dict.fromkeys(_words(), NORMAL)}
    return {"model": "bert", "tokens": list(types), "token_type": list(types.values())}


def _wordpiece_cased() -> dict[str, Any]:
    """One whose letters stay as they are, with ids of its own, and a user-defined token."""
    special = {"<s>": CONTROL, "</s>": CONTROL, "<unk>": UNKNOWN, "<tag é>": USER_DEFINED,
               "<never>": UNUSED}  # fmt: skip
    tokens = list(dict.fromkeys([*_words(), *special]))
    return {
        "model": "bert", "tokens": tokens, "token_type": [special.get(t, NORMAL) for t in tokens],
        "bos_token_id": tokens.index("<s>"), "seperator_token_id": tokens.index("</s>"),
        "unknown_token_id": tokens.index("<unk>"), "add_bos_token": False,
        "normalizer.lowercase": False,
    }  # fmt: skip


def _unigram() -> dict[str, Any]:
    """One as XLM-RoBERTa has it."""
    pieces, charsmap = _trained(420, 11)
    special = {"<s>": CONTROL, "<pad>": CONTROL, "</s>": CONTROL, "<unk>": UNKNOWN}
    return _unigram_of({**special, **dict.fromkeys(pieces, NORMAL), "<mask>": CONTROL}, pieces) | {
        "bos_token_id": 0, "padding_token_id": 1, "eos_token_id": 2, "unknown_token_id": 3,
        "mask_token_id": 5, "add_bos_token": True, "add_space_prefix": True,
        "remove_extra_whitespaces": True, "precompiled_charsmap": list(charsmap),
    }  # fmt: skip


def _unigram_spaces() -> dict[str, Any]:
    """One as T5 has it, which keeps spaces, with tokens of every type."""
    pieces, charsmap = _trained(360, 7)
    special = {"<pad>": CONTROL, "</s>": CONTROL, "<unk>": UNKNOWN}
    others = {"<extra_id_0>": USER_DEFINED, "<tag é>": USER_DEFINED, "<never>": UNUSED,
              "<0x41>": BYTE, "▁▁": NORMAL, "a▁b": NORMAL}  # fmt: skip
    types = {**special, **dict.fromkeys(pieces, NORMAL), **others}
    scores = {**pieces, "▁▁": -3.0, "a▁b": -4.5, "<never>": -1.0}
    return _unigram_of(types, scores) | {
        "add_space_prefix": True, "precompiled_charsmap": list(charsmap),
    }  # fmt: skip


def _unigram_bare() -> dict[str, Any]:
    """One that changes nothing in a text, and whose scores have ties."""
    pieces = {"▁": -2.0, "▁the": -4.0, "th": -2.0, "he": -2.0, "t": -2.0, "h": -2.0, "e": -2.0,
              "a": -3.0, "aa": -6.0, "\n": -2.0, "漢字": -5.0, "漢": -2.5, "字": -2.5}  # fmt: skip
    special = {"<pad>": CONTROL, "</s>": CONTROL, "<unk>": UNKNOWN}
    return _unigram_of({**special, **dict.fromkeys(pieces, NORMAL)}, pieces) | {
        "add_eos_token": False,
    }  # fmt: skip


def _whitespace() -> dict[str, Any]:
    """One as the Chinese model of Jina's embeddings has it: merges of characters, no bytes."""
    special = {"<s>": CONTROL, "<pad>": CONTROL, "</s>": CONTROL, "<unk>": CONTROL}
    merges = ["t h", "th e", "i n", "a n", "an d", "漢 字", "中 文", "中文 語", "i ng", "n g",
              "é t", "ét é", "▁ a", "😀 👍"]  # fmt: skip
    characters = [c for c in "".join(_ALPHABETS) if not c.isspace() and c not in "\0ßqQ"]
    tokens = list(dict.fromkeys([*special, *characters, *(m.replace(" ", "") for m in merges)]))
    return {
        "model": "whitespace", "pre": "whitespace", "tokens": tokens, "merges": merges,
        "token_type": [special.get(token, NORMAL) for token in tokens], "bos_token_id": 0,
        "eos_token_id": 2, "unknown_token_id": 3, "add_bos_token": True, "add_eos_token": True,
    }  # fmt: skip


def _unigram_of(types: Mapping[str, int], scores: Mapping[str, float]) -> dict[str, Any]:
    return {
        "model": "t5", "pre": "default", "tokens": list(types), "token_type": list(types.values()),
        "scores": [float(np.float32(scores.get(token, 0.0))) for token in types],
    }  # fmt: skip


def _trained(n: int, every: int) -> tuple[dict[str, float], bytes]:
    """Return pieces with their scores, and a map, as SentencePiece trains them on some texts."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    prose = (reference_data() / "text" / "botchan.txt").read_text("utf-8")
    lines = prose[:40_000].split("\n")[::2] + random_texts(100, every)
    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.tsv"
        rules.write_text(_rules(every), "utf-8")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(line.replace("\0", "") for line in lines), model_writer=model,
            vocab_size=n, character_coverage=0.98, model_type="unigram", minloglevel=2,
            normalization_rule_tsv=str(rules), num_threads=1, hard_vocab_limit=False,
        )  # fmt: skip
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    # scores of few digits, which make ties
    pieces = {p.piece: round(p.score * 16) / 16 for p in proto.pieces if p.type == NORMAL}
    return pieces, proto.normalizer_spec.precompiled_charsmap


def _rules(every: int) -> str:
    """Return a part of NFKC, and the blanks, as SentencePiece's rules."""
    rules = dict.fromkeys("\t\n\r\xa0\u2003\u3000", " ")
    rules |= dict.fromkeys("\x07\u200b\ufeff\xad", "")
    ranges = (range(0xC0, 0x250), range(0x2100, 0x3400, 5), range(0xFB00, 0xFF60))
    for code in (code for codes in ranges for code in codes[::every]):
        composed = unicodedata.ucd_3_2_0.normalize("NFKC", chr(code))
        decomposed = unicodedata.ucd_3_2_0.normalize("NFD", chr(code))
        rules |= {key: composed for key in (chr(code), decomposed) if key != composed}
    return "".join(f"{_hex(key)}\t{_hex(value)}\n" for key, value in rules.items())


def _hex(text: str) -> str:
    return " ".join(f"{ord(character):X}" for character in text)


# -- llama.cpp -------------------------------------------------------------------------------


class LlamaCpp:
    """A vocabulary as llama.cpp has it.

    Raises:
        RuntimeError: llama.cpp refuses the file.
    """

    def __init__(self, metadata: Mapping[str, Any], architecture: str = "bert") -> None:
        import llama_cpp

        self._lib = llama_cpp
        self._log = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._log, ctypes.c_void_p(0))
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "vocabulary.gguf"
            write_gguf(path, fields_of(metadata, architecture), [])
            self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise RuntimeError("llama.cpp cannot load the vocabulary")
        self.vocab = llama_cpp.llama_model_get_vocab(self._model)

    def encode(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """Return the ids of a text."""
        data = text.encode()
        ids = (ctypes.c_int32 * (len(data) * 2 + 8))()
        n = self._lib.llama_tokenize(
            self.vocab, data, len(data), ids, len(ids), add_special, parse_special
        )
        if n < 0:
            raise RuntimeError(f"llama.cpp has no room for the ids of {text!r}")
        return list(ids[:n])

    def pieces(self, special: bool) -> list[bytes]:
        """Return what each token prints."""
        n_vocab = self._lib.llama_vocab_n_tokens(self.vocab)
        return [self._piece(i, special) for i in range(n_vocab)]

    def _piece(self, token_id: int, special: bool) -> bytes:
        buffer = ctypes.create_string_buffer(1024)
        n = self._lib.llama_token_to_piece(self.vocab, token_id, buffer, 1024, 0, special)
        return buffer.raw[:n]


def fields_of(metadata: Mapping[str, Any], architecture: str) -> dict[str, Field]:
    """Return the metadata of a file that has a vocabulary and nothing else."""
    dtypes = {"scores": np.float32, "token_type": np.int32, "precompiled_charsmap": np.uint8}
    values = {
        key: np.array(value, dtypes[key]) if key in dtypes else value
        for key, value in metadata.items()
    }
    keys = {f"tokenizer.ggml.{key}": Field.of(value) for key, value in values.items()}
    return {"general.architecture": Field.of(architecture), **keys}


ARCHITECTURES = {"unigram": "jina-bert-v3"}
"""Vocabulary -> architecture, which says what a mask does to blanks; else ``bert``."""


def record(metadata: Mapping[str, Any], architecture: str, asked: Sequence[str]) -> dict[str, Any]:
    """Return what llama.cpp makes of texts, and what its tokens print."""
    oracle = LlamaCpp(metadata, architecture)
    edges = oracle.encode("", True, False)
    plain = [oracle.encode(text, False, False) for text in asked]
    special = [oracle.encode(text, False, True) for text in asked]
    whole = [oracle.encode(text, True, False) for text in asked]
    others = [None if a == b else a for a, b in zip(special, plain, strict=True)]
    n_begin = next(
        n
        for n in range(len(edges) + 1)
        if all(a == edges[:n] + b + edges[n:] for a, b in zip(whole, plain, strict=True))
    )
    return {
        "architecture": architecture, "metadata": metadata,
        "begin": edges[:n_begin], "end": edges[n_begin:], "ids": plain,
        "special": others,
        "pieces": [piece.decode("latin-1") for piece in oracle.pieces(False)],
        "special_pieces": [piece.decode("latin-1") for piece in oracle.pieces(True)],
    }  # fmt: skip


def main(target: Path) -> None:
    """Write the archive."""
    asked = texts()
    files = {"texts.json": json.dumps(asked).encode()}
    for name, metadata in vocabularies().items():
        found = record(metadata, ARCHITECTURES.get(name, "bert"), asked)
        files[f"{name}.json"] = json.dumps(found, separators=(",", ":")).encode()
        print(f"{name:20} {len(metadata['tokens']):5} tokens", file=sys.stderr)
    write_archive(target, "pieces", files)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
