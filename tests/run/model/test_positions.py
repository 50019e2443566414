"""Models with an embedding for each position compute no more positions than they have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gguf_hub.errors import UsageError
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from tests.arch_models import TOKENS, write_arch_model

N_POSITIONS = 256


def test_a_context_beyond_the_last_position_is_refused(kernels: None, tmp_path: Path) -> None:
    path = write_arch_model(tmp_path / "model.gguf", "gpt2")
    with (
        GgufFile.open(path) as file,
        pytest.raises(UsageError, match="expected up to 256, as this model") as caught,
    ):
        Transformer.open(file, ModelSettings(n_ctx=N_POSITIONS + 1))
    assert caught.value.hint == "ask for a context of 256 with `-c 256`"


def test_sequences_side_by_side_have_positions_of_their_own(kernels: None, tmp_path: Path) -> None:
    path = write_arch_model(tmp_path / "model.gguf", "gpt2")
    with (
        GgufFile.open(path) as file,
        Transformer.open(file, ModelSettings(n_ctx=N_POSITIONS, n_slots=2)) as model,
    ):
        wanted = [model.forward(TOKENS[:n], 0) for n in (9, 4)]
        model.forward(TOKENS[:8], 0)
        model.forward(TOKENS[:3], 0, slot=1)
        found = model.decode([(0, TOKENS[8], 8), (1, TOKENS[3], 3)])
    np.testing.assert_array_equal(found, np.concatenate(wanted))
