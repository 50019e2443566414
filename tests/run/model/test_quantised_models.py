"""Models that llama.cpp quantised: its logits, and as near to exact ones where caches are F32, too.

Its logits are of an F32 cache. The six models (6 MB) are no part of the repository: they lie in a
folder beside it, or the tests are skipped.
"""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest

from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from tests.conftest import ROOT

FOLDER = ROOT.parent / "shared" / "data" / "arch" / "quantised"
NAMES = (
    "gptoss.given.mxfp4_moe", "qwen3moe.given.iq4_nl", "synth-mixtral-256.imatrix.q2_k",
    "synth-mixtral-256.iq2_xs", "synth-mixtral-256.iq3_xxs", "synth-mixtral-256.iq4_xs",
)  # fmt: skip
WITH_Q5_1 = "qwen3moe.given.iq4_nl"
"""llama.cpp rounds sums of activations to halves for such matrices; ours are not rounded."""

SUMS = 1e-5
"""What another order of sums moves logits by, of some 3; 5e-7 here. Rounding one more number of an
activation otherwise moves them by 0.04."""

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no reference models in {FOLDER}")


@cache
def references(name: str) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Return tokens, llama.cpp's logits, and those of weights and activations as float32."""
    facts = json.loads((FOLDER / f"{name}.json").read_text())
    logits, exact = (
        np.fromfile(FOLDER / facts[which], "<f4").reshape(facts["shape"]).astype(float)
        for which in ("logits", "exact")
    )
    return facts["ids"], logits, exact


@cache
def found(name: str, cache_type: str) -> np.ndarray:
    """Return our logits of all positions."""
    settings = ModelSettings(
        n_ctx=64, n_threads=2, n_logits=None, key_type=cache_type, value_type=cache_type
    )
    with GgufFile.open(FOLDER / f"{name}.gguf") as file, Transformer.open(file, settings) as model:
        return model.forward(references(name)[0], 0, all_logits=True).astype(float)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the root mean square over the vocabulary, the mean of all positions."""
    return float(np.sqrt(((a - b) ** 2).mean(-1)).mean())


@pytest.mark.slow
@pytest.mark.parametrize("cache_type", ["F32", "F16"])
@pytest.mark.parametrize("name", NAMES)
def test_logits_point_where_llama_cpps_do(name: str, cache_type: str) -> None:
    ours, logits = found(name, cache_type), references(name)[1]
    assert (ours * logits).sum() / np.linalg.norm(ours) / np.linalg.norm(logits) >= 0.999


@pytest.mark.parametrize("name", sorted({*NAMES} - {WITH_Q5_1}))
def test_with_the_same_cache_activations_are_rounded_alike(name: str) -> None:
    assert distance(found(name, "F32"), references(name)[1]) < SUMS


def test_logits_are_nearer_to_exact_ones_on_average() -> None:
    ours, theirs = [], []
    for name in NAMES:
        _, logits, exact = references(name)
        ours.append(distance(found(name, "F32"), exact))
        theirs.append(distance(logits, exact))
        assert ours[-1] < theirs[-1] + SUMS, name
    assert np.mean(ours) < np.mean(theirs)
