"""Vocabularies from tokenizer.json: texts become the ids of the models' own tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.errors import CheckpointError
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.convert import plan_conversion
from gguf_hub.run.tokenizer import load_tokenizer
from tests.run.convert import checkpoints
from tests.run.tokenizer.small import BYTES

# as they stand in the tokenizer.json of Llama 3, Qwen 2, gpt-oss, Mistral and DeepSeek V3
_ENDS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ENDS_O200K = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+SUFFIX"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*SUFFIX"
)
LLAMA3 = rf"{_CONTRACTED}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_ENDS}"
QWEN2 = rf"{_CONTRACTED}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_ENDS}"
QWEN35 = (
    rf"{_CONTRACTED}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = _CASED.replace("SUFFIX", f"{_CONTRACTED}?") + rf"|\p{{N}}{{1,3}}|{_ENDS_O200K}"
TEKKEN = _CASED.replace("SUFFIX", "") + rf"|\p{{N}}|{_ENDS_O200K}"
DEEPSEEK = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_FIRST = {"SpecialToken": {"id": "<s>", "type_id": 0}}
BEGINS = {"type": "TemplateProcessing", "single": [_FIRST, {"Sequence": {"id": "A"}}]}


def cut_by(*expressions: str) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": e}, "behavior": "Isolated", "invert": False}
        for e in expressions
    ]
    steps.append({"type": "ByteLevel", "add_prefix_space": False, "use_regex": False})
    return {"type": "Sequence", "pretokenizers": steps}


def write(
    folder: Path, data: dict[str, Any], *, n_vocab: int, settings: dict[str, Any] | None = None
) -> Path:
    checkpoints.write(folder, tensors={}, vocab_size=n_vocab)
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings or {}))
    return folder


def converted(folder: Path, **options: Any) -> dict[str, Any]:
    path = folder.with_suffix(".gguf")
    plan_conversion(folder, contents="vocabulary", **options).write(path)
    return dict(GgufFile.open(path).metadata)


# -- real vocabularies ----------------------------------------------------------------------------

REAL = {
    "qwen3.6": (cut_by(QWEN35), False, "qwen35"),
    "gpt-oss": (cut_by(O200K), False, "gpt-4o"),
    "tekken": (cut_by(TEKKEN), True, "tekken"),
    "deepseek-v4": (cut_by(*DEEPSEEK), False, "deepseek-v3"),
}


@pytest.mark.parametrize("name", REAL)
def test_ids_are_those_of_the_models_tokenizer(name: str, data: Path, tmp_path: Path) -> None:
    pre_tokenizer, ignore_merges, pre = REAL[name]
    content = json.loads((data / "bpe" / f"{name}.json").read_text(encoding="utf-8"))
    given = content["metadata"]
    vocab, added = {}, []
    for i, (text, type) in enumerate(zip(given["tokens"], given["token_type"], strict=True)):
        if type == 1:
            vocab[text] = i
        else:
            added.append({"id": i, "content": text, "special": type == 3})
    merges = [merge.split(" ") for merge in given["merges"]]  # as transformers 4.45 writes them
    file = {
        "model": {"type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": ignore_merges},
        "pre_tokenizer": pre_tokenizer,
        "added_tokens": added,
    }
    metadata = converted(write(tmp_path / "m", file, n_vocab=len(given["tokens"])))
    assert metadata["tokenizer.ggml.pre"] == pre
    tokenizer = load_tokenizer(metadata)
    for case in content["cases"]:
        ids = tokenizer.encode(case["text"], add_bos=False, parse_special=True)
        assert ids == case.get("special", case["ids"]), case["text"]


# -- small ones -----------------------------------------------------------------------------------


def small(pre_tokenizer: Any = None, **changes: Any) -> dict[str, Any]:
    """A byte-level vocabulary of three letters, a merge and two special tokens."""
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "Ġ": 2, "ab": 3}, "merges": ["a b"]}
    return {
        "model": {**model, **changes.pop("model", {})},
        "pre_tokenizer": pre_tokenizer or {"type": "ByteLevel", "add_prefix_space": False},
        "added_tokens": [
            {"id": 4, "content": "<s>", "special": True},
            {"id": 5, "content": "<|tool|>", "special": False},
            {"id": 6, "content": "▁x", "special": False},
        ],
        **changes,
    }


DIGITS = {"type": "Sequence", "pretokenizers": [
    {"type": "Digits", "individual_digits": True}, {"type": "ByteLevel"}]}  # fmt: skip


@pytest.mark.parametrize(
    ("pre_tokenizer", "model", "post_processor", "pre"),
    [
        (None, {}, None, "gpt-2"),
        (DIGITS, {}, None, "starcoder"),
        (cut_by(LLAMA3), {}, None, "smaug-bpe"),
        (cut_by(LLAMA3), {"ignore_merges": True}, BEGINS, "llama-bpe"),
        (cut_by(LLAMA3), {"ignore_merges": True}, None, "glm4"),
        (cut_by(QWEN2), {}, None, "qwen2"),
        (cut_by(O200K), {}, None, "gpt-4o"),
    ],
    ids=range(7),
)
def test_the_pre_tokenizer_is_named_by_its_expressions(
    pre_tokenizer: Any, model: Any, post_processor: Any, pre: str, tmp_path: Path
) -> None:
    file = small(pre_tokenizer, model=model, post_processor=post_processor)
    metadata = converted(write(tmp_path / "m", file, n_vocab=8, settings={"bos_token": "<s>"}))
    assert metadata["tokenizer.ggml.pre"] == pre
    assert metadata["tokenizer.ggml.add_bos_token"] is (post_processor is not None)
    tokenizer = load_tokenizer(metadata)
    assert tokenizer.encode("ab a")[-3:] == [3, 2, 0]


def test_tokens_have_their_kinds(tmp_path: Path) -> None:
    settings = {"bos_token": {"content": "<s>"}, "chat_template": "{{ x }}"}
    metadata = converted(write(tmp_path / "m", small(), n_vocab=9, settings=settings))
    tokens = list(metadata["tokenizer.ggml.tokens"])
    assert tokens == ["a", "b", "Ġ", "ab", "<s>", "<|tool|>", " x", "[PAD7]", "[PAD8]"]
    assert list(metadata["tokenizer.ggml.token_type"]) == [1, 1, 1, 1, 3, 3, 4, 5, 5]
    assert metadata["tokenizer.ggml.bos_token_id"] == 4
    assert metadata["tokenizer.chat_template"] == "{{ x }}"


def test_sentencepiece_in_disguise_is_sentencepiece(tmp_path: Path) -> None:
    pieces = {text: i for i, text in enumerate(["<unk>", "<s>", *BYTES])}
    for text in ("▁", "a", "b", "▁a", "ab", "▁ab"):
        pieces[text] = len(pieces)
    file = {
        "model": {"type": "BPE", "vocab": pieces, "byte_fallback": True, "unk_token": "<unk>",
                  "merges": ["a b", "▁ ab", "▁ a", "▁a b"]},
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "added_tokens": [{"id": 1, "content": "<s>", "special": True}],
        "post_processor": BEGINS,
    }  # fmt: skip
    settings = {"bos_token": "<s>"}
    metadata = converted(write(tmp_path / "m", file, n_vocab=len(pieces), settings=settings))
    assert metadata["tokenizer.ggml.model"] == "llama"
    tokenizer = load_tokenizer(metadata)
    # `a b` comes before `▁ a`: the word is `▁ ab`, and all of it a token
    assert tokenizer.encode("ab a\t") == [1, *(pieces[t] for t in ("▁ab", "▁a", "<0x09>"))]


def test_another_name_may_be_given(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", small(cut_by(r"x+")), n_vocab=8)
    assert converted(folder, pre="gpt-2")["tokenizer.ggml.pre"] == "gpt-2"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"model": {"type": "Unigram"}}, "`model.type`: expected BPE, found 'Unigram'"),
        ({}, "`model.type`: expected BPE, found None"),
        ({"model": {"type": "BPE", "vocab": [1]}}, "`model.vocab`: expected tokens and their ids"),
        (small(model={"vocab": {"a": -1}}), "`model.vocab`: expected tokens and their ids"),
        (small(model={"vocab": {"a": 8}}), "token 8 is beyond `vocab_size` 8"),
        (small(model={"merges": [3]}), "`model.merges`: expected pairs of tokens, found 3"),
        (small(model={"merges": 5}), "`merges`: expected a list, found 5"),
        (small(added_tokens=5), "`added_tokens`: expected a list, found 5"),
        (small(cut_by(r"x+")), "`pre_tokenizer`: no name is known for `x+`"),
        (small({"type": "Whitespace"}), "`pre_tokenizer`: `Whitespace` is not known here"),
        (small(added_tokens=[{"id": "x"}]), "`added_tokens`: expected ids and texts"),
        (small(model={"vocab": {"\ud800": 0}}), "token 0 is no Unicode text"),
    ],
    ids=range(12),
)
def test_files_that_cannot_be_taken_say_why(
    file: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "m", file, n_vocab=8)
    with pytest.raises(CheckpointError) as found:
        plan_conversion(folder, contents="vocabulary")
    assert message in str(found.value)


def test_a_token_beyond_the_embeddings_is_left_out_with_a_note(tmp_path: Path) -> None:
    plan = plan_conversion(write(tmp_path / "m", small(), n_vocab=6), contents="vocabulary")
    assert any("added token `▁x` has id 6" in note for note in plan.notes)
