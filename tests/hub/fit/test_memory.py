"""The eight files' sizes, needs and reads: published figures, and what must hold of the terms."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gguf_hub.hub.catalog import load_catalog
from gguf_hub.hub.fit import Constraints, facts_from_catalog, need_of
from gguf_hub.hub.fit.memory import RUNNER_BYTES, RUNNER_VOCAB_BYTES
from gguf_hub.units import GB, GIB

CATALOG = load_catalog()
FACTS = {file.quant: facts_from_catalog(CATALOG, file) for file in CATALOG.files}
LLAMA = Constraints(engine="llama.cpp")

# quant: file GB, dense GB, experts per layer MB, read per token GB, need GB at 4096 and at 32768
# (worked out by hand from the recipes of the eight files; decimal units)
PUBLISHED = {
    "Q2_K": (15.64, 0.80, 462, 4.50, 16.39, 20.18),
    "Q3_K_M": (20.36, 0.93, 606, 5.77, 21.11, 24.90),
    "Q4_0": (26.44, 1.00, 793, 7.34, 27.19, 30.98),
    "Q4_K_M": (26.44, 1.00, 793, 7.34, 27.19, 30.98),
    "Q5_0": (32.23, 1.13, 969, 8.89, 32.98, 36.77),
    "Q5_K_M": (32.23, 1.13, 969, 8.89, 32.98, 36.77),
    "Q6_K": (38.38, 1.28, 1156, 10.53, 39.13, 42.92),
    "Q8_0": (49.62, 1.57, 1497, 13.55, 50.37, 54.16),
}


@pytest.mark.parametrize("quant", PUBLISHED)
def test_figures_of_the_eight_files(quant: str) -> None:
    facts = FACTS[quant]
    file_gb, dense_gb, layer_mb, active_gb, at_4k_gb, at_32k_gb = PUBLISHED[quant]
    assert facts.weights_bytes / GB == pytest.approx(file_gb, abs=0.005)
    assert facts.dense_bytes / GB == pytest.approx(dense_gb, abs=0.005)
    assert facts.expert_bytes / 32 / 1e6 == pytest.approx(layer_mb, abs=0.5)
    assert facts.active_bytes / GB == pytest.approx(active_gb, abs=0.006)
    for n_ctx, expected in ((4096, at_4k_gb), (32768, at_32k_gb)):
        need = need_of(facts, replace(LLAMA, n_ctx=n_ctx))
        assert need.total_bytes / GB == pytest.approx(expected, rel=0.005)
        terms = need.total_bytes - need.overhead_bytes
        assert terms / GB == pytest.approx(expected, abs=0.005)


def test_need_names_its_terms_for_llama_cpp() -> None:
    need = need_of(FACTS["Q4_K_M"], replace(LLAMA, n_ctx=32768))
    assert need.weights_bytes == 26_440_753_152
    assert need.kv_bytes == 4 * GIB  # 128 KiB for each token
    # a mask of two bytes for each token and position; of each token three rows of 4096, the gates,
    # values and products of two experts, and a gap of 4096
    assert need.scratch_bytes == 512 * (2 * 32768 + 4 * (4 * 4096 + 2 * 3 * 14336))
    assert need.overhead_bytes < 16_000_000


def test_without_flash_attention_llama_cpp_keeps_all_scores() -> None:
    need = need_of(FACTS["Q4_K_M"], replace(LLAMA, n_ctx=32768, flash_attn="off"))
    assert need.kv_bytes == 4 * GIB
    assert need.scratch_bytes / GIB == pytest.approx(2.0 + 1 / 16 + 0.043, abs=0.001)


@pytest.mark.parametrize(("kv_type", "kib_a_token"), [("f16", 128), ("q8_0", 68), ("f32", 256)])
@pytest.mark.parametrize("engine", ["gguf-hub", "llama.cpp"])
def test_kv_cache_by_type(engine: str, kv_type: str, kib_a_token: int) -> None:
    wish = Constraints(n_ctx=1024, kv_type=kv_type, engine=engine)
    assert need_of(FACTS["Q2_K"], wish).kv_bytes == 1024 * kib_a_token * 1024


def test_our_runner_takes_less_scratch_at_long_contexts() -> None:
    wish = Constraints(n_ctx=32768)
    ours = need_of(FACTS["Q4_K_M"], wish, n_threads=2)
    assert ours.kv_bytes == 4 * GIB
    assert ours.scratch_bytes < 0.25 * GB
    assert (
        ours.scratch_bytes
        == need_of(FACTS["Q4_K_M"], Constraints(n_ctx=512), n_threads=2).scratch_bytes
    )
    assert ours.overhead_bytes == RUNNER_BYTES + 32000 * RUNNER_VOCAB_BYTES
    more = need_of(FACTS["Q4_K_M"], wish, n_threads=16)
    assert (more.scratch_bytes - ours.scratch_bytes) / 14 < 300_000  # for each thread


def test_parts_add_up_to_the_tensors() -> None:
    for file in CATALOG.files:
        assert FACTS[file.quant].weights_bytes == file.tensor_bytes


def test_without_a_recipe_the_parts_are_split_by_weights() -> None:
    file = replace(CATALOG.files[3], recipe=None, perplexity=None)
    facts = facts_from_catalog(CATALOG, file)
    assert facts.are_parts_estimated
    assert facts.weights_bytes == file.tensor_bytes
    # nearly all weights are of one type, so the split is nearly right
    assert facts.active_bytes == pytest.approx(FACTS["Q4_K_M"].active_bytes, rel=0.05)
    assert facts.perplexity is None


def test_dense_model_reads_all_but_its_embeddings() -> None:
    shape = replace(CATALOG.architecture, n_expert=0, n_expert_used=0)
    facts = replace(FACTS["Q4_0"], shape=shape)
    assert facts.active_bytes == facts.weights_bytes - facts.embedding_bytes
