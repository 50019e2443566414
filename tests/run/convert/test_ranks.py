"""Vocabularies of tiktoken: texts become the ids that tiktoken and mistral-common give them."""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.errors import CheckpointError
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.convert import plan_conversion
from gguf_hub.run.convert.ranks import merges
from gguf_hub.run.tokenizer import load_tokenizer
from tests.reference import reference_data
from tests.run.convert import checkpoints
from tests.run.convert.test_tokenizer_json import TEKKEN

BYTES = [bytes([byte]) for byte in range(256)]


def ids_of(token_ranks: dict[bytes, int], word: bytes) -> list[int]:
    """tiktoken's algorithm as its documentation tells it: the lowest union first."""
    if word in token_ranks:
        return [token_ranks[word]]
    parts = [word[i : i + 1] for i in range(len(word))]
    while True:
        unions = [a + b for a, b in itertools.pairwise(parts)]
        known = [union for union in unions if union in token_ranks]
        if not known:
            return [token_ranks[part] for part in parts]
        at = unions.index(min(known, key=token_ranks.__getitem__))
        parts[at : at + 2] = [unions[at]]


def tekken(tokens: list[bytes], **changes: Any) -> dict[str, Any]:
    """A tekken.json of some tokens, behind five special ones."""
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for rank, token in enumerate(tokens)
    ]
    config = {"pattern": TEKKEN, "num_vocab_tokens": len(tokens), "version": "v7",
              "default_vocab_size": len(tokens) + 5, "default_num_special_tokens": 5}  # fmt: skip
    named = ["<unk>", "<s>", "</s>", "[INST]"]
    special = [{"rank": i, "token_str": s, "is_control": i < 3} for i, s in enumerate(named)]
    return {"config": config, "vocab": vocab, "special_tokens": special, **changes}


def lines(tokens: list[bytes]) -> bytes:
    return b"".join(base64.b64encode(t) + b" %d\n" % i for i, t in enumerate(tokens))


def write(
    folder: Path, name: str, content: dict[str, Any] | bytes, n_vocab: int, **settings: Any
) -> Path:
    checkpoints.write(folder, tensors={}, vocab_size=n_vocab)
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / name).write_bytes(raw)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def converted(folder: Path, **options: Any) -> dict[str, Any]:
    path = folder.with_suffix(".gguf")
    plan_conversion(folder, contents="vocabulary", **options).write(path)
    return dict(GgufFile.open(path).metadata)


def test_ids_are_those_of_mistral_common(tmp_path: Path) -> None:
    source = reference_data() / "ranks"
    content = json.loads((source / "tekken.json").read_text())
    n_vocab = content["config"]["default_vocab_size"]
    metadata = converted(write(tmp_path / "m", "tekken.json", content, n_vocab))
    tokenizer = load_tokenizer(metadata)
    cases = json.loads((source / "cases.json").read_text(encoding="utf-8"))
    assert len(cases) > 200
    for case in cases:
        assert tokenizer.encode(case["text"], parse_special=False) == case["ids"], case["text"]
    keys = {"pre": "tekken", "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0,
            "padding_token_id": 11, "add_bos_token": True, "add_eos_token": False}  # fmt: skip
    assert {key: metadata[f"tokenizer.ggml.{key}"] for key in keys} == keys
    assert metadata["tokenizer.ggml.tokens"][:4] == ["<unk>", "<s>", "</s>", "[INST]"]
    assert metadata["tokenizer.ggml.tokens"][999] == "<SPECIAL_999>"


@st.composite
def _vocabularies(draw: st.DrawFn) -> list[bytes]:
    """All bytes, then unions of tokens that come before, and some that no unions make."""
    tokens = [*BYTES]
    letters = [ord(letter) for letter in "abc"]
    for _ in range(draw(st.integers(0, 25))):
        pool = [*letters, *range(256, len(tokens))]
        union = tokens[draw(st.sampled_from(pool))] + tokens[draw(st.sampled_from(pool))]
        if draw(st.integers(0, 9)) == 0:
            union += b"ca"
        if union not in tokens:
            tokens.append(union)
    return tokens


@given(_vocabularies(), st.lists(st.text("abc", min_size=1, max_size=12), min_size=1, max_size=9))
def test_merges_give_what_ranks_give(tokens: list[bytes], words: list[str]) -> None:
    ranks = {token: rank for rank, token in enumerate(tokens)}
    places = {pair: place for place, pair in enumerate(merges(ranks))}
    for word in map(str.encode, words):
        parts = [word[i : i + 1] for i in range(len(word))]
        while pairs := [p for p in itertools.pairwise(parts) if p in places]:
            best = min(pairs, key=places.__getitem__)
            at = list(itertools.pairwise(parts)).index(best)
            parts[at : at + 2] = [best[0] + best[1]]
        found = [ranks[word]] if word in ranks else [ranks[part] for part in parts]
        assert found == ids_of(ranks, word)


DECODER = {
    "258": {"content": "[BOS]", "special": True},
    "259": {"content": "[EOS]", "special": True},
    "260": {"content": "<tool>", "special": False},
}
SETTINGS = {"added_tokens_decoder": DECODER, "bos_token": "[BOS]", "eos_token": "[EOS]"}


def test_lines_of_base64_and_special_tokens_of_the_settings(tmp_path: Path) -> None:
    content = lines([*BYTES, b"ab", b"abc"])
    folder = write(tmp_path / "m", "tiktoken.model", content, 264, **SETTINGS)
    metadata = converted(folder)
    tokenizer = load_tokenizer(metadata)
    assert tokenizer.encode("abcab<tool>[EOS]", parse_special=True) == [257, 256, 260, 259]
    assert metadata["tokenizer.ggml.pre"] == "kimi-k2"
    assert metadata["tokenizer.ggml.eos_token_id"] == 259
    assert list(metadata["tokenizer.ggml.token_type"][256:264]) == [1, 1, 3, 3, 4, 5, 5, 5]
    assert metadata["tokenizer.ggml.merges"] == ["a b", "ab c"]


def test_a_name_that_tells_no_pattern_needs_pre(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "qwen.tiktoken", lines(BYTES), 264, **SETTINGS)
    with pytest.raises(CheckpointError, match="expressions that cut a text") as found:
        plan_conversion(folder, contents="vocabulary")
    assert "--pre NAME" in (found.value.hint or "")
    assert converted(folder, pre="qwen2")["tokenizer.ggml.pre"] == "qwen2"


def test_tokenizer_json_counts_first(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "tekken.json", b"{}", 8)
    (folder / "tokenizer.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        plan_conversion(folder, contents="vocabulary")


def test_special_tokens_that_are_told_nowhere(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "tiktoken.model", lines(BYTES), 264)
    with pytest.raises(CheckpointError, match="no end token") as found:
        plan_conversion(folder, contents="vocabulary")
    assert "tokenizer.json" in (found.value.hint or "")


@pytest.mark.parametrize(("version", "name"), [("v3", "v3"), ("v7", "v7"), ("v13", "v7")])
def test_a_missing_template_is_named(version: str, name: str, tmp_path: Path) -> None:
    content = tekken(BYTES)
    content["config"]["version"] = version
    folder = write(tmp_path / "m", "tekken.json", content, 264)
    (note,) = plan_conversion(folder, contents="vocabulary").notes
    assert f"--chat-template mistral-{name}-tekken" in note
    (folder / "chat_template.jinja").write_text("x")
    assert plan_conversion(folder, contents="vocabulary").notes == ()


def _entry(**changes: Any) -> dict[str, Any]:
    return tekken(BYTES, vocab=[*tekken(BYTES)["vocab"][:-1], {"rank": 255, **changes}])


def _config(**changes: Any) -> dict[str, Any]:
    content = tekken(BYTES)
    return {**content, "config": {**content["config"], **changes}}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({}, "default_num_special_tokens"),
        (_config(default_vocab_size=-1), "default_vocab_size"),
        (_config(default_vocab_size=10**12), "default_vocab_size"),
        (_config(default_vocab_size=1e400), "default_vocab_size"),
        (_config(pattern=7), "config.pattern"),
        (_config(pattern="x+"), "no name is known"),
        (_config(default_vocab_size=200), "no"),
        (tekken(BYTES, vocab=None), "`vocab`: expected a list"),
        (tekken(BYTES, vocab=[1, 2]), "expected ranks and bytes"),
        (tekken(BYTES, special_tokens=3), "`special_tokens`: expected a list"),
        (tekken(BYTES, special_tokens=[{"rank": 5, "token_str": "x"}]), "expected ranks below 5"),
        (tekken(BYTES, special_tokens=[{"rank": 1, "token_str": "\ud800"}]), "no Unicode text"),
        (_entry(token_bytes="?"), "expected base64"),
        (_entry(token_bytes=""), "expected base64"),
        (_entry(token_bytes="YQ=="), "bytes that occur once"),
        (_entry(token_bytes="YWI="), "a token for each byte, found none for 0xff"),
        (_entry(token_bytes="/w==", rank=True), "expected ranks and bytes"),
        (_entry(token_bytes="/w==", rank=7), "ranks from 0 on"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_tekken_json_is_named(
    content: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "m", "tekken.json", content, 300)
    with pytest.raises(CheckpointError, match=problem):
        plan_conversion(folder, contents="vocabulary")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "ranks from 0 on"),
        (b"\xff\x00\n", "line 1: expected base64 and a rank"),
        (b"YQ==\n", "line 1"),
        (b"YQ== -1\n", "line 1"),
        (b"YQ== " + b"9" * 5000, "line 1"),
        (b"YQ== 1\n", "ranks from 0 on"),
        (b"YQ== 0\n", "a token for each byte, found none for 0x00"),
        (lines([*BYTES, b"a"]), "bytes that occur once"),
        (lines([*BYTES, b"a" * 1025]), "at most 1,024 bytes"),
        (lines([*BYTES, *(b"ab%d" % i for i in range(20))]), "beyond `vocab_size` 264"),
    ],
)
def test_what_is_wrong_with_lines_is_named(content: bytes, problem: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "tiktoken.model", content, 264, **SETTINGS)
    with pytest.raises(CheckpointError, match=problem):
        plan_conversion(folder, contents="vocabulary")


def test_added_tokens_without_embeddings_are_left_out_with_a_note(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "tiktoken.model", lines(BYTES), 260, **SETTINGS)
    (note,) = plan_conversion(folder, contents="vocabulary").notes
    assert "`<tool>` has id 260" in note
