"""Vocabularies: SentencePiece itself is the oracle of what our tokenizer makes of the metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from gguf_hub.errors import CheckpointError
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.convert import plan_conversion
from gguf_hub.run.tokenizer import Tokenizer, TokenType, load_tokenizer
from tests.run.convert import checkpoints


@pytest.fixture(scope="module")
def model() -> bytes:
    return checkpoints.tokenizer_model()


@pytest.fixture
def folder(tmp_path: Path, model: bytes) -> Path:
    """A checkpoint with a vocabulary."""
    folder = checkpoints.write(tmp_path / "m")
    (folder / "tokenizer.model").write_bytes(model)
    return folder


def metadata(folder: Path, **options: Any) -> dict[str, Any]:
    plan_conversion(folder, **options).write(folder / "out.gguf")
    return dict(GgufFile.open(folder / "out.gguf").metadata)


def settings(folder: Path, **values: Any) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps(values))


def test_text_becomes_the_ids_that_sentencepiece_gives(folder: Path, model: bytes) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokenizer = load_tokenizer(metadata(folder))
    for text in (checkpoints.TEXT, "The moon ☾ naïve", "  two  spaces", "x" * 50, "\t\n", "日本"):
        assert tokenizer.encode(text) == [1, *processor.encode(text)]
        assert tokenizer.decode(processor.encode(text)) == text


def test_tokens_that_the_vocabulary_lacks_are_filled_up(folder: Path, model: bytes) -> None:
    n = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    assert n < 300
    values = metadata(folder)
    tokenizer: Tokenizer = load_tokenizer(values)
    assert tokenizer.n_vocab == 300
    assert tokenizer.vocab.tokens[n:] == [f"[PAD{i}]" for i in range(n, 300)]
    assert set(tokenizer.vocab.types[n:]) == {TokenType.UNUSED}


def test_types_are_those_of_sentencepiece(folder: Path) -> None:
    types = load_tokenizer(metadata(folder)).vocab.types
    assert types[:4] == [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, TokenType.BYTE]
    assert types[4:259] == [TokenType.BYTE] * 255
    assert types[259] == TokenType.NORMAL


def test_added_tokens_are_matched_whole(folder: Path) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({"<tool>": 295, "ignored": "x"}))
    decoder = {
        "0": {"content": "<unk>", "special": True},
        "296": {"content": "<|im_end|>", "special": True},
        "297": "no object",
        "x": {"content": "no id"},
    }
    settings(folder, added_tokens_decoder=decoder)
    tokenizer = load_tokenizer(metadata(folder))
    assert 295 in tokenizer.encode("a <tool> b")
    assert 296 not in tokenizer.encode("a<|im_end|>")
    assert 296 in tokenizer.encode("a<|im_end|>", parse_special=True)
    assert 296 in tokenizer.eog_ids
    assert tokenizer.vocab.types[0] == TokenType.UNKNOWN


def test_an_added_token_outside_of_the_vocabulary_is_left_out_with_a_note(folder: Path) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({"<tool>": 300, "<x>": 301, "<y>": 299}))
    plan = plan_conversion(folder)
    (note,) = plan.notes
    assert note.startswith("added token `<tool>` has id 300 and 1 more, but the model only knows")
    tokens = list(plan.fields["tokenizer.ggml.tokens"].value)
    assert len(tokens) == 300
    assert ("<y>" in tokens, "<tool>" in tokens) == (True, False)


def test_special_tokens_come_from_the_most_specific_place(folder: Path) -> None:
    settings(folder, bos_token={"content": "</s>"}, pad_token="<unk>", unk_token="not there")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 7}))
    values = metadata(folder)
    ids = {name: values.get(f"tokenizer.ggml.{name}_token_id")
           for name in ("bos", "eos", "padding", "unknown")}  # fmt: skip
    # by text, from config.json, by text, from SentencePiece
    assert ids == {"bos": 2, "eos": 7, "padding": 0, "unknown": 0}


def test_no_padding_token_is_none(folder: Path) -> None:
    assert "tokenizer.ggml.padding_token_id" not in metadata(folder)


def test_flags_are_carried_over(folder: Path) -> None:
    settings(folder, add_bos_token=False, add_eos_token=True, add_prefix_space=False)
    vocab = load_tokenizer(metadata(folder)).vocab
    assert (vocab.add_bos, vocab.add_eos, vocab.add_space_prefix) == (False, True, False)


def test_a_model_without_space_prefix_is_noticed(folder: Path) -> None:
    model = checkpoints.tokenizer_model(add_dummy_prefix=False)
    (folder / "tokenizer.model").write_bytes(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokenizer = load_tokenizer(metadata(folder))
    assert tokenizer.encode(checkpoints.TEXT) == [1, *processor.encode(checkpoints.TEXT)]


@pytest.mark.parametrize(
    ("stated", "file", "expected"),
    [
        ("{{ a }}", None, "{{ a }}"),
        ("{{ a }}", "{{ b }}", "{{ b }}"),
        (None, "{{ b }}", "{{ b }}"),
        (
            [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}, "x"],
            None,
            "d",
        ),
        ([{"name": "rag", "template": "r"}], None, None),
        (7, None, None),
        (None, None, None),
    ],
)
def test_the_chat_template_is_found(
    stated: Any, file: str | None, expected: str | None, folder: Path
) -> None:
    settings(folder, chat_template=stated)
    if file:
        (folder / "chat_template.jinja").write_text(file)
    assert metadata(folder).get("tokenizer.chat_template") == expected


def test_other_templates_are_kept_by_their_names(folder: Path) -> None:
    named = [{"name": "default", "template": "d"}, {"name": "tool use", "template": "t"}]
    settings(folder, chat_template=named)
    values = metadata(folder)
    assert values["tokenizer.chat_template"] == "d"
    assert values["tokenizer.chat_templates"] == ["tool_use"]
    assert values["tokenizer.chat_template.tool_use"] == "t"


def test_the_vocabulary_alone(folder: Path) -> None:
    (folder / "model.safetensors").unlink()  # not needed for it
    values = metadata(folder, contents="vocabulary")
    file = GgufFile.open(folder / "out.gguf")
    assert len(file.tensors) == 0
    assert "general.file_type" not in values
    assert load_tokenizer(values).n_vocab == 300


def test_a_missing_vocabulary_is_told_with_a_way_out(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "m")
    with pytest.raises(
        CheckpointError, match=r"no `tokenizer\.model`, `tokenizer\.json` or"
    ) as found:
        plan_conversion(folder)
    assert "--no-vocab" in (found.value.hint or "")


def test_a_file_that_is_no_vocabulary(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(b"# not a protobuf\n" * 50)
    with pytest.raises(CheckpointError, match="not a SentencePiece model"):
        plan_conversion(folder)


def test_a_vocabulary_larger_than_the_embedding_is_refused(tmp_path: Path, model: bytes) -> None:
    folder = checkpoints.write(tmp_path / "m", vocab_size=280)
    (folder / "tokenizer.model").write_bytes(model)
    with pytest.raises(CheckpointError, match=r"pieces, but config\.json says `vocab_size` 280"):
        plan_conversion(folder)
