"""Models as Ollama's own converter writes them have the logits of llama.cpp's files, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import QuantType
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.opening import open_model
from tests.arch_models import N_CTX, TOKENS, letters
from tests.notes import Notes
from tests.ollama_files import IMAGES, OLLAMA_FILES, write_both


@pytest.fixture(scope="module")
def logits_of(kernels: None) -> Callable[[Path], np.ndarray]:
    """Compute the logits of a file, each kernel linked once."""
    builder = KernelBuilder()
    settings = ModelSettings(n_ctx=N_CTX, n_logits=None, n_threads=1)

    def logits(path: Path) -> np.ndarray:
        with (
            GgufFile.open(path) as file,
            Transformer.open(file, settings, builder=builder) as model,
        ):
            return np.array(model.forward(TOKENS, 0, all_logits=True))

    return logits


@pytest.mark.parametrize("name", OLLAMA_FILES)
def test_logits_are_those_of_llama_cpps_file(name: str, logits_of: Any, tmp_path: Path) -> None:
    plain, theirs = write_both(tmp_path, name)
    np.testing.assert_array_equal(logits_of(theirs), logits_of(plain))


def test_biases_of_experts_may_be_halves_of_floats(logits_of: Any, tmp_path: Path) -> None:
    plain, theirs = write_both(tmp_path, "gptoss", biases=QuantType.BF16)
    exact, rounded = logits_of(plain), logits_of(theirs)
    assert 0 < np.abs(exact - rounded).max() < 0.1


def test_what_is_left_out_is_said(tmp_path: Path, kernels: None) -> None:
    _, theirs = write_both(tmp_path, "gemma3-4b", vocabulary=letters())
    notes = Notes()
    open_model(theirs, ModelSettings(n_ctx=N_CTX, n_threads=1), progress=notes).close()
    assert (
        f"`ollama.gguf`: {len(IMAGES)} tensors for images; gguf-hub leaves them out" in notes.texts
    )


def test_interleaved_experts_are_refused(logits_of: Any, tmp_path: Path) -> None:
    def rename(name: str) -> str:
        return name.replace("ffn_gate_exps.weight", "ffn_gate_up_exps.weight")

    _, theirs = write_both(tmp_path, "gptoss", rename=rename)
    with pytest.raises(UnsupportedGgufError, match=r"gate and up take turns .* `ollama pull`"):
        logits_of(theirs)
