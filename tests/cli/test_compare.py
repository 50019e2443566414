"""``gguf-hub compare`` from the outside, on quants of a synthetic model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import FileType
from gguf_hub.gguf.writer import write_gguf
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.opening import load_model
from gguf_hub.run.quants.quantize import quantize_file
from tests.synth import TINY, write_mixtral

_TOKENS = "tokenizer.ggml.tokens"


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    base = write_mixtral(tmp_path / "base.gguf", TINY, layout="merged", recipe="F32")
    paths = [base]
    for kind in (FileType.Q8_0, FileType.Q4_0):
        paths.append(tmp_path / f"{kind.name}.gguf")
        quantize_file(base, paths[-1], kind, n_threads=1)
    return paths


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The hen and the fox went over the hill.\n" * 3)
    return path


@pytest.mark.slow
def test_quants_are_compared_with_the_first(models: list[Path], text: Path, gguf_hub) -> None:
    args = ("-f", text, "-c", 16, "-t", 1)
    report = json.loads(gguf_hub("compare", *models, *args, "--json")[1])
    base, better, worse = report["models"]
    assert [row["name"] for row in report["models"]] == ["base", "Q8_0", "Q4_0"]
    assert base["divergence"] is None
    for row in (better, worse):
        assert row["divergence"]["base"]["perplexity"] == base["perplexity"]
    assert 0 < better["divergence"]["kl"]["value"] < worse["divergence"]["kl"]["value"]
    assert base["bits_per_weight"] == 32
    assert worse["size_bytes"] == models[2].stat().st_size
    direct = json.loads(gguf_hub("perplexity", models[2], *args, "--base", models[0], "--json")[1])
    assert worse["perplexity"] == direct["perplexity"]
    kl = direct["divergence"]["kl"]["value"]
    assert worse["divergence"]["kl"]["value"] == pytest.approx(kl, abs=1e-4)
    code, out, err = gguf_hub("compare", *models, *args)
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["base", "Q8_0", "Q4_0"]
    assert "tokens scored in" in err


def test_no_kernel_is_compiled_while_the_clock_runs(
    models: list[Path], text: Path, gguf_hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    builders: list[KernelBuilder] = []

    def load(*args, builder: KernelBuilder, **options):
        builders.append(builder)
        return load_model(*args, builder=builder, **options)

    monkeypatch.setattr("gguf_hub.run.opening.load_model", load)
    assert gguf_hub("compare", *models[:2], "-f", text, "-c", 16, "-t", 1)[0] == 0
    assert [builder.is_staged for builder in builders] == [False, False]


def test_a_model_of_another_vocabulary_is_named(
    models: list[Path], text: Path, tmp_path: Path, gguf_hub
) -> None:
    with GgufFile.open(models[0]) as file:
        names = list(file.fields[_TOKENS].value)
        h, e = names.index("<0x68>"), names.index("<0x65>")
        names[h], names[e] = names[e], names[h]
        fields = {**file.fields, _TOKENS: type(file.fields[_TOKENS]).of(names)}
        tensors = [(info, file.tensor_bytes(name)) for name, info in file.tensors.items()]
        write_gguf(tmp_path / "other.gguf", fields, tensors)
    other = tmp_path / "other.gguf"
    code, out, err = gguf_hub("compare", models[0], other, "-f", text, "-c", 16, "-t", 1)
    assert (code, out) == (2, "")
    assert f"`{other}` reads the text as other tokens than the base did" in err
    assert "--text" not in err


@pytest.mark.slow
def test_logits_of_the_base_are_kept(
    models: list[Path], text: Path, tmp_path: Path, gguf_hub
) -> None:
    kept = tmp_path / "base.logits"
    args = ("-c", 16, "-t", 1, "--kl-divergence-base", kept, "--json")
    first = json.loads(gguf_hub("compare", *models, "-f", text, *args)[1])["models"]
    before = kept.read_bytes()
    second = json.loads(gguf_hub("compare", models[2], *args)[1])["models"]
    assert kept.read_bytes() == before
    for key in ("perplexity", "divergence", "size_bytes"):
        assert second[0][key] == first[2][key]
    text.write_text("Another text altogether, and one that is long enough for chunks.")
    code, _, err = gguf_hub("compare", models[2], "-f", text, *args)
    assert code == 2
    assert "reads the text as other tokens than the base did" in err


@pytest.mark.slow
def test_a_plot_of_sizes(models: list[Path], text: Path, tmp_path: Path, gguf_hub) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "c.png"
    args = ("-f", text, "-c", 16, "-t", 1, "--plot", plot)
    code, _, err = gguf_hub("compare", *models, *args)
    assert code == 0, err
    assert f"plot written: {plot}" in err
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_a_plot_that_cannot_be_written_takes_nothing_with_it(
    models: list[Path], text: Path, gguf_hub
) -> None:
    pytest.importorskip("matplotlib")
    args = ("-f", text, "-c", 16, "-t", 1, "--plot", "/proc/c.png")  # where nobody can make a file
    code, out, err = gguf_hub("compare", *models, *args)
    assert code == 1
    assert "cannot be written" in err
    assert "Perplexity" in out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "expected two models or more, the base first"),
        (["BASE", "-f", "TEXT"], 2, "expected two models or more"),
        (["BASE", "BASE"], 2, "expected a text: --text FILE"),
        (["BASE", "BASE", "-f", "-"], 2, "expected a file"),
        (["BASE", "BASE", "-f", "TEXT", "--plot", "x.pdf"], 2, "ends with .png or .svg"),
        (["BASE", "BASE", "-f", "TEXT", "--kl-divergence-base", "TEXT"], 1, "not a file of logits"),
        (["BASE", "no.gguf", "-f", "TEXT", "-c", "16"], 1, "no.gguf"),
    ],
)
def test_bad_arguments_are_refused(
    arguments: list[str], code: int, said: str, models: list[Path], text: Path, gguf_hub
) -> None:
    paths = {"BASE": models[0], "TEXT": text}
    found, out, err = gguf_hub("compare", *(paths.get(each, each) for each in arguments))
    assert (found, out) == (code, "")
    assert said in err
