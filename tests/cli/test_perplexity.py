"""``gguf-hub perplexity`` from the outside, on a synthetic model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.writer import write_gguf
from tests.synth import TINY, write_mixtral


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_mixtral(tmp_path / "model.gguf", TINY, recipe="F32")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The hen and the fox went over the hill.\n" * 3)
    return path


def run(gguf_hub, *args: object) -> dict:
    code, out, err = gguf_hub("perplexity", *args, "-c", 16, "-t", 1, "--json")
    assert code == 0, err
    return json.loads(out)


def test_a_text_has_a_perplexity(model: Path, text: Path, gguf_hub) -> None:
    facts = run(gguf_hub, model, "--text", text)
    assert list(facts) == [
        "model", "n_ctx", "n_chunks", "seconds", "perplexity", "nll", "n_scored", "divergence",
    ]  # fmt: skip
    assert facts["n_scored"] == facts["n_chunks"] * 7
    assert facts["perplexity"]["value"] > 1
    assert facts["divergence"] is None


def test_people_get_a_table(model: Path, text: Path, gguf_hub) -> None:
    args = ("perplexity", "-m", model, "-f", text, "-c", 16, "-t", 1, "--chunks", 3)
    code, out, err = gguf_hub(*args)
    assert (code, out.splitlines()[-1].split()[0]) == (0, "perplexity")
    assert "21 tokens scored in 3 chunks of 16" in err
    code, out, _ = gguf_hub(*args, "--base", model)
    assert code == 0
    assert "same likeliest token    100.000 %" in out
    assert "KL divergence, mean      0.000000" in out


def test_a_model_equals_itself_and_its_saved_logits(
    model: Path, text: Path, tmp_path: Path, gguf_hub
) -> None:
    direct = run(gguf_hub, model, "--text", text, "--base", model)
    assert direct["divergence"]["kl"]["value"] == 0
    assert direct["divergence"]["same_top"] == {"value": 1, "error": 0}
    assert direct["divergence"]["base"]["perplexity"] == direct["perplexity"]
    saved = tmp_path / "logits.bin"
    wrote = run(gguf_hub, model, "--text", text, "--kl-divergence-base", saved)
    assert wrote["perplexity"] == direct["perplexity"]
    args = ("--kl-divergence", "--kl_divergence_base", saved)
    for more in ((), ("--text", text)):
        read = run(gguf_hub, model, *args, *more)
        assert read["divergence"]["kl"]["value"] == pytest.approx(0, abs=1e-4)
        assert read["perplexity"] == direct["perplexity"]


def test_saved_logits_of_another_text_are_refused(
    model: Path, text: Path, tmp_path: Path, gguf_hub
) -> None:
    saved = tmp_path / "logits.bin"
    run(gguf_hub, model, "--text", text, "--kl-divergence-base", saved)
    text.write_text("Another text altogether, and one that is long enough.")
    args = ("--kl-divergence", "--kl-divergence-base", saved, "--text", text, "-t", 1)
    code, out, err = gguf_hub("perplexity", model, *args)
    assert (code, out) == (2, "")
    assert "reads the text as other tokens than the base did" in err


def test_a_base_of_another_vocabulary_is_refused(
    model: Path, text: Path, tmp_path: Path, gguf_hub
) -> None:
    file = GgufFile.open(model)
    tokens = list(file.fields["tokenizer.ggml.tokens"].value)
    changed = type(file.fields["tokenizer.ggml.tokens"]).of([*tokens[:-1], "other"])
    fields = {**file.fields, "tokenizer.ggml.tokens": changed}
    tensors = [(info, file.tensor_bytes(name)) for name, info in file.tensors.items()]
    write_gguf(tmp_path / "other.gguf", fields, tensors)
    args = ("perplexity", model, "--text", text, "--base", tmp_path / "other.gguf", "-c", 16)
    code, _, err = gguf_hub(*args, "-t", 1)
    assert (code, "has another vocabulary" in err) == (2, True)


def test_chunks_longer_than_the_training_are_warned_of(model: Path, text: Path, gguf_hub) -> None:
    text.write_text("hill " * 200)
    code, _, err = gguf_hub("perplexity", model, "-f", text, "-c", 200, "-t", 1, "--chunks", 1)
    assert code == 0
    assert "chunks of 200 tokens: `model.gguf` was trained on 128" in err


def test_a_stretched_context_has_another_perplexity(model: Path, text: Path, gguf_hub) -> None:
    plain = run(gguf_hub, model, "--text", text)["perplexity"]
    assert run(gguf_hub, model, "--text", text, "--rope-scale", 4)["perplexity"] != plain
    unscaled = ("--rope-scale", 4, "--rope-scaling", "none")
    assert run(gguf_hub, model, "--text", text, *unscaled)["perplexity"] == plain


def test_nothing_ends_between_chunks(model: Path, text: Path, tmp_path: Path, gguf_hub) -> None:
    file = GgufFile.open(model)
    flag = type(file.fields["tokenizer.ggml.add_bos_token"]).of(True)
    fields = {**file.fields, "tokenizer.ggml.add_eos_token": flag}
    tensors = [(info, file.tensor_bytes(name)) for name, info in file.tensors.items()]
    write_gguf(tmp_path / "ends.gguf", fields, tensors)
    found = run(gguf_hub, tmp_path / "ends.gguf", "--text", text)
    assert found["perplexity"] == run(gguf_hub, model, "--text", text)["perplexity"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["M"], "expected a text: --text FILE"),
        (["--text", "T"], "expected one MODEL"),
        (["M", "-m", "M", "--text", "T"], "expected one MODEL"),
        (["M", "--kl-divergence"], "--kl-divergence needs --kl-divergence-base FILE"),
        (["M", "--text", "T", "--base", "M", "--kl-divergence-base", "x"], "exclude each other"),
        (["M", "--text", "T", "-c", "0"], "--ctx-size 0: expected 1 or more"),
        (["M", "--text", "T", "-c", "3"], "chunks of 3 tokens: expected 4 or more"),
        (["M", "--text", "T", "--rope-scale", "-1"], "rope_scale: expected (0, 1e+12]"),
        (["M", "--text", "T", "--chunks", "0", "-c", "16"], "0 chunks: expected 1 or more"),
        (["M", "--text", "T", "-c", "100"], "expected 200 or more, two chunks of 100"),
    ],
)
def test_wrong_usage(args: list[str], message: str, model: Path, text: Path, gguf_hub) -> None:
    code, out, err = gguf_hub(
        "perplexity", *({"M": model, "T": text}.get(arg, arg) for arg in args)
    )
    assert (code, out) == (2, "")
    assert message in err


def test_files_that_cannot_be_read(model: Path, text: Path, tmp_path: Path, gguf_hub) -> None:
    code, _, err = gguf_hub("perplexity", model, "--text", tmp_path / "absent.txt", "-t", 1)
    assert "cannot read text file `" in err
    assert (code, "absent.txt" in err) == (1, True)
    text.write_bytes(b"\xff\xfe")
    code, _, err = gguf_hub("perplexity", model, "--text", text, "-t", 1)
    assert (code, "is not UTF-8 text" in err) == (1, True)
    args = ("--kl-divergence", "--kl-divergence-base", tmp_path / "absent.bin")
    code, _, err = gguf_hub("perplexity", model, *args)
    assert (code, "absent.bin`: no such file" in err) == (1, True)


def test_a_missing_text_is_told_before_a_model_is_looked_for(tmp_path: Path, gguf_hub) -> None:
    code, _, err = gguf_hub("perplexity", tmp_path / "none.gguf", "--text", tmp_path / "none.txt")
    assert code == 1
    assert "cannot read text file" in err
    assert "none.txt" in err


@pytest.mark.parametrize("which", ["text", "model", "link", "notes"])
def test_logits_replace_nothing_but_logits(
    model: Path, text: Path, tmp_path: Path, gguf_hub, which: str
) -> None:
    notes, link = tmp_path / "notes", tmp_path / "link"
    notes.write_text("my only copy")
    link.symlink_to(model)
    saved = {"text": text, "model": model, "link": link, "notes": notes}[which]
    before = saved.read_bytes()
    code, out, err = gguf_hub(
        "perplexity", model, "--text", text, "--kl-divergence-base", saved, "-c", 16
    )
    assert (code, out) == (1, "")
    assert f"`{saved}` exists and is not a file of logits: it is not replaced" in err
    assert saved.read_bytes() == before


def test_logits_are_written_anew(model: Path, text: Path, tmp_path: Path, gguf_hub) -> None:
    saved = tmp_path / "base.logits"
    for chunks in (2, 1):
        args = (model, "--text", text, "--kl-divergence-base", saved, "--chunks", chunks)
        assert run(gguf_hub, *args)["n_chunks"] == chunks
        assert saved.read_bytes().startswith(b"_logits_")
