"""``gguf-hub warmup``: which kernels it has ready afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import FileType
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.model.warmup import kernels_of_card, kernels_of_file
from tests.synth import TINY, Shape, write_mixtral

# the card's mixes are those of eight experts
MIXTRAL = Shape(n_layer=1, n_embd=256, n_head=4, n_head_kv=2, n_ff=256, n_expert=8, n_vocab=300)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_mixtral(tmp_path / "model.gguf", TINY, recipe="Q8_0")


@pytest.mark.slow
def test_a_model_finds_all_its_kernels_compiled(model: Path, gguf_hub) -> None:
    code, out, _ = gguf_hub("warmup", model, "--json")
    facts = json.loads(out)
    assert code == 0
    assert list(facts) == ["n_kernels", "n_compiled", "seconds", "folder", "isa"]
    before = {path.name for path in Path(facts["folder"]).glob("*.o")}
    with (
        GgufFile.open(model) as file,
        Transformer.open(file, ModelSettings(n_ctx=8, n_slots=2, n_logits=None)) as transformer,
    ):
        transformer.forward([1, 2], 0)
        transformer.decode([(0, 1, 2), (1, 1, 0)])  # two texts at once, as the server does
    assert {path.name for path in Path(facts["folder"]).glob("*.o")} == before


@pytest.mark.slow
def test_a_second_time_there_is_nothing_to_do(model: Path, gguf_hub) -> None:
    assert gguf_hub("warmup", model, "-ctk", "q8_0")[0] == 0
    code, out, err = gguf_hub("warmup", model, "-ctk", "q8_0")
    assert (code, err) == (0, "")
    assert "0 compiled in" in out


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K_M", "Q4_0", "Q4_K_M", "Q5_0", "Q6_K", "Q8_0"])
def test_a_quant_needs_the_kernels_of_its_file(name: str, tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "model.gguf", MIXTRAL, recipe=name)
    with GgufFile.open(path) as file:
        assert set(kernels_of_card(FileType[name])) == set(kernels_of_file(file))


def test_a_missing_model_is_named(gguf_hub) -> None:
    code, out, err = gguf_hub("warmup", "nowhere.gguf")
    assert (code, out) == (1, "")
    assert "nowhere.gguf" in err


def test_a_folder_that_keeps_nothing_is_an_error(
    model: Path, gguf_hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("GGUF_HUB_KERNEL_CACHE", str(tmp_path / "file" / "kernels"))
    code, out, err = gguf_hub("warmup", model)
    assert (code, out) == (1, "")
    assert "compiled kernels are not kept in" in err
    assert "GGUF_HUB_KERNEL_CACHE=FOLDER" in err
