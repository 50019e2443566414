"""Losses: published ones as they are, others by the mix of types."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gguf_hub.gguf.types import QuantType
from gguf_hub.hub.fit import FileFacts, estimated_loss, losses_of
from gguf_hub.hub.fit.quality import loss_of_type
from tests.hub.fit.test_memory import FACTS

FILES = list(FACTS.values())
UNPUBLISHED = [replace(facts, perplexity=None) for facts in FILES]


def by_quant(files: list[FileFacts]) -> dict[str, float | None]:
    return {
        facts.quant: loss and loss.share
        for facts, loss in zip(files, losses_of(files), strict=True)
    }


def test_published_perplexities_are_compared_as_they_are() -> None:
    losses = by_quant(FILES)
    assert losses["Q8_0"] == 0
    assert losses["Q3_K_M"] == pytest.approx(4.4194 / 4.1049 - 1)
    assert [loss.is_estimated for loss in losses_of(FILES)] == [q == "Q6_K" for q in FACTS]


def test_the_model_of_losses_orders_files_as_measuring_did() -> None:
    measured, guessed = by_quant(FILES), by_quant(UNPUBLISHED)
    assert all(loss.is_estimated for loss in losses_of(UNPUBLISHED))
    # Q2_K stands apart: the catalog's is of before llama.cpp learned to mix types for experts
    for quant in set(FACTS) - {"Q2_K", "Q8_0"}:
        assert guessed[quant] == pytest.approx(measured[quant], rel=0.3)
    order = ["Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q3_K_M", "Q2_K"]
    assert sorted(order, key=lambda q: guessed[q]) == order


def test_an_estimate_beside_published_figures_is_in_proportion() -> None:
    files = [replace(f, perplexity=None) if f.quant == "Q5_K_M" else f for f in FILES]
    mixed = by_quant(files)
    assert mixed["Q5_K_M"] == pytest.approx(0.0084, abs=0.002)
    assert mixed["Q3_K_M"] == by_quant(FILES)["Q3_K_M"]


def test_a_file_of_unknown_types_has_no_estimate() -> None:
    facts = replace(UNPUBLISHED[0], are_parts_estimated=True)
    assert estimated_loss(facts) is None
    assert losses_of([facts]) == [None]


def test_fewer_bits_lose_more() -> None:
    types = [t for t in QuantType if 2 < t.bits_per_weight < 9 and t.name[0] in "IQ"]
    pairs = [(a, b) for a in types for b in types if a.bits_per_weight < b.bits_per_weight - 0.6]
    assert all(loss_of_type(a) > loss_of_type(b) for a, b in pairs)
    assert loss_of_type(QuantType.IQ4_XS) == pytest.approx(0.045, abs=0.01)
    assert loss_of_type(QuantType.IQ1_S) > 1
    assert loss_of_type(QuantType.BF16) == 0
