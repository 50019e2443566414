"""Need, verdict and choice: published figures, policies, and what must hold of any memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.catalog import load_catalog
from gguf_hub.errors import UsageError
from gguf_hub.fit import (
    POLICIES,
    FileFacts,
    Fit,
    Verdict,
    best_of,
    choose,
    facts_from_catalog,
    fit_file,
    largest_n_ctx,
    loss_against,
    need_of,
    pick,
)
from gguf_hub.units import GB, GIB

CATALOG = load_catalog()
FACTS = {file.quant: facts_from_catalog(CATALOG, file) for file in CATALOG.files}

# quant: dense GB, experts per layer MB, read per token GB, need GB at 4096 and at 32768 tokens
# (worked out by hand from the recipes of the eight files; decimal units)
PUBLISHED = {
    "Q2_K": (0.80, 462, 4.50, 16.45, 22.09),
    "Q3_K_M": (0.93, 606, 5.77, 21.17, 26.81),
    "Q4_0": (1.00, 793, 7.34, 27.25, 32.88),
    "Q4_K_M": (1.00, 793, 7.34, 27.25, 32.88),
    "Q5_0": (1.13, 969, 8.89, 33.03, 38.67),
    "Q5_K_M": (1.13, 969, 8.89, 33.03, 38.67),
    "Q6_K": (1.28, 1156, 10.53, 39.18, 44.82),
    "Q8_0": (1.57, 1497, 13.55, 50.43, 56.07),
}


@pytest.mark.parametrize("quant", PUBLISHED)
def test_figures_of_the_eight_files(quant: str) -> None:
    facts = FACTS[quant]
    dense_gb, layer_mb, active_gb, at_4k_gb, at_32k_gb = PUBLISHED[quant]
    assert facts.dense_bytes / GB == pytest.approx(dense_gb, abs=0.005)
    assert facts.expert_bytes / 32 / 1e6 == pytest.approx(layer_mb, abs=0.5)
    assert facts.active_bytes / GB == pytest.approx(active_gb, abs=0.006)
    assert need_of(facts, 4096).total_bytes / GB == pytest.approx(at_4k_gb, abs=0.005)
    assert need_of(facts, 32768).total_bytes / GB == pytest.approx(at_32k_gb, abs=0.005)


def test_need_names_its_terms() -> None:
    need = need_of(FACTS["Q4_K_M"], 32768)
    assert need.weights_bytes == 26_440_753_152
    assert need.kv_bytes == 4 * GIB  # 128 KiB for each token
    assert need.scratch_bytes == 2 * GIB  # 64 KiB for each token


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


# ---- verdict -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ram_gb", "vram_gb", "verdict"),
    [
        (20, 0, Verdict.TOO_BIG),
        (24, 0, Verdict.RAM),
        (24, 24, Verdict.VRAM),
        (8, 24, Verdict.VRAM),
        (24, 8, Verdict.RAM),
        (12, 12, Verdict.TOO_BIG),
    ],
)
def test_verdict(ram_gb: int, vram_gb: int, verdict: Verdict) -> None:
    facts = FACTS["Q3_K_M"]
    fit = fit_file(facts, n_ctx=4096, ram_bytes=ram_gb * GB, vram_bytes=vram_gb * GB)
    assert fit.verdict is verdict
    assert fit.is_fitting == (verdict is not Verdict.TOO_BIG)


def test_a_memory_of_exactly_the_need_fits_and_a_byte_less_does_not() -> None:
    need_bytes = need_of(FACTS["Q2_K"], 512).total_bytes
    assert fit_file(FACTS["Q2_K"], n_ctx=512, ram_bytes=need_bytes).is_fitting
    assert not fit_file(FACTS["Q2_K"], n_ctx=512, ram_bytes=need_bytes - 1).is_fitting


@given(limit_bytes=st.integers(0, 100 * GB), quant=st.sampled_from(list(FACTS)))
def test_largest_context_fits_and_one_token_more_does_not(limit_bytes: int, quant: str) -> None:
    facts = FACTS[quant]
    n_ctx = largest_n_ctx(facts, limit_bytes)
    assert n_ctx == 0 or fit_file(facts, n_ctx=n_ctx, ram_bytes=limit_bytes).is_fitting
    assert not fit_file(facts, n_ctx=n_ctx + 1, ram_bytes=limit_bytes).is_fitting


# ---- choice ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ram_bytes", "policy", "quant"),
    [
        (12 * GB, "balanced", None),
        (17 * GB, "balanced", "Q2_K"),
        (24 * GB, "balanced", "Q3_K_M"),
        (24 * GB, "quality", "Q3_K_M"),
        (24 * GB, "fast", "Q3_K_M"),
        (28 * GB, "balanced", "Q4_K_M"),  # Q4_0 measures better by less than 1 %
        (28 * GB, "quality", "Q4_0"),
        (28 * GB, "fast", "Q3_K_M"),
        (32 * GIB, "balanced", "Q5_K_M"),
        (48 * GB, "balanced", "Q5_K_M"),
        (48 * GB, "quality", "Q6_K"),
        (64 * GB, "balanced", "Q5_K_M"),
        (64 * GB, "quality", "Q8_0"),
        (64 * GB, "fast", "Q3_K_M"),
    ],
)
def test_pick(ram_bytes: int, policy: str, quant: str | None) -> None:
    chosen = pick(CATALOG, n_ctx=4096, ram_bytes=ram_bytes, policy=policy).chosen
    assert (chosen.facts.quant if chosen else None) == quant


def test_context_counts() -> None:
    assert pick(CATALOG, n_ctx=4096, ram_bytes=22 * GB).chosen.facts.quant == "Q3_K_M"
    assert pick(CATALOG, n_ctx=16384, ram_bytes=22 * GB).chosen.facts.quant == "Q2_K"


def test_a_file_in_vram_is_as_good_as_one_in_ram() -> None:
    found = pick(CATALOG, n_ctx=4096, ram_bytes=8 * GB, vram_bytes=80 * GB)
    assert found.chosen is not None
    assert found.chosen.facts.quant == "Q5_K_M"
    assert "8 GB of RAM or 80 GB of VRAM" in found.reason


def _fits(ram_bytes: int) -> list[Fit]:
    return [fit_file(facts, n_ctx=4096, ram_bytes=ram_bytes) for facts in FACTS.values()]


@given(ram_bytes=st.integers(0, 100 * GB), policy=st.sampled_from(POLICIES))
def test_choice_holds_what_the_policy_promises(ram_bytes: int, policy: str) -> None:
    fits = _fits(ram_bytes)
    fitting = [fit for fit in fits if fit.is_fitting]
    chosen = choose(fits, policy)
    if not fitting:
        assert chosen is None
        return
    assert chosen in fitting
    best = min(fit.facts.perplexity for fit in fitting)
    bound = {"balanced": 1.01, "quality": 1.0, "fast": 1.1}[policy]
    assert chosen.facts.perplexity <= best * bound
    rivals = [fit for fit in fitting if fit.facts.perplexity <= best * bound]
    if policy == "fast":
        assert chosen.facts.active_bytes == min(fit.facts.active_bytes for fit in rivals)
    if policy == "balanced" and not chosen.facts.is_recommended:
        assert not any(fit.facts.is_recommended for fit in rivals)
        assert chosen.facts.weights_bytes == min(fit.facts.weights_bytes for fit in rivals)


@given(small=st.integers(0, 100 * GB), more=st.integers(0, 100 * GB))
def test_more_memory_never_gives_a_worse_file_by_quality(small: int, more: int) -> None:
    before, after = choose(_fits(small), "quality"), choose(_fits(small + more), "quality")
    if before:
        assert after is not None
        assert after.facts.perplexity <= before.facts.perplexity


@given(order=st.permutations(list(FACTS)), policy=st.sampled_from(POLICIES))
def test_order_of_the_files_does_not_matter(order: list[str], policy: str) -> None:
    fits = [fit_file(FACTS[quant], n_ctx=4096, ram_bytes=40 * GB) for quant in order]
    assert choose(fits, policy) == choose(_fits(40 * GB), policy)


def test_unknown_policy_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no such policy: `best`") as caught:
        choose([], "best")
    assert "`balanced`, `quality`, `fast`" in (caught.value.hint or "")


# ---- files without figures ---------------------------------------------------------------------


def _unmeasured(quant: str, *, is_recommended: bool = False) -> FileFacts:
    return replace(FACTS[quant], perplexity=None, is_recommended=is_recommended)


@pytest.mark.parametrize(
    ("policy", "quant"), [("balanced", "Q4_K_M"), ("fast", "Q4_K_M"), ("quality", "Q8_0")]
)
def test_without_figures_the_card_decides_then_size(policy: str, quant: str) -> None:
    facts = [_unmeasured("Q2_K"), _unmeasured("Q4_K_M", is_recommended=True), _unmeasured("Q8_0")]
    fits = [fit_file(each, n_ctx=4096, ram_bytes=64 * GB) for each in facts]
    chosen = choose(fits, policy)
    assert chosen is not None
    assert chosen.facts.quant == quant
    assert best_of(fits) is None
    assert loss_against(chosen.facts, None) is None


def test_a_measured_file_comes_before_larger_ones_without_figures() -> None:
    fits = [
        fit_file(each, n_ctx=4096, ram_bytes=64 * GB)
        for each in (FACTS["Q3_K_M"], _unmeasured("Q8_0", is_recommended=True))
    ]
    chosen = choose(fits)
    assert chosen is not None
    assert chosen.facts.quant == "Q3_K_M"


# ---- the reason --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ram_gb", "policy", "reason"),
    [
        (
            12,
            "balanced",
            "none of the 8 files fits 12 GB of RAM: Q2_K, the smallest, needs 16.5 GB "
            "at 4096 tokens of context",
        ),
        (
            24,
            "balanced",
            "Q3_K_M: the best that fits 24 GB of RAM; Q4_K_M would lose 3.6 % against Q8_0 "
            "instead of 7.7 % but needs 27.3 GB",
        ),
        (
            48,
            "quality",
            "Q6_K: the best that fits 48 GB of RAM; Q8_0 is better by 0.3 % but needs 50.5 GB",
        ),
        (
            64,
            "balanced",
            "Q5_K_M: recommended by the card, and within 1 % of Q8_0, the best that fits "
            "64 GB of RAM",
        ),
        (
            64,
            "fast",
            "Q3_K_M: 5.8 GB read per token, the fewest within 10 % of Q8_0, the best that fits "
            "64 GB of RAM",
        ),
    ],
)
def test_reason(ram_gb: int, policy: str, reason: str) -> None:
    assert pick(CATALOG, n_ctx=4096, ram_bytes=ram_gb * GB, policy=policy).reason == reason


def test_reason_where_the_card_recommends_none() -> None:
    files = tuple(replace(file, is_recommended=False) for file in CATALOG.files)
    found = pick(replace(CATALOG, files=files), n_ctx=4096, ram_bytes=64 * GB)
    assert found.reason == (
        "Q5_K_M: the smallest that is within 1 % of Q8_0, the best that fits 64 GB of RAM"
    )


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("balanced", "Q4_K_M: the card recommends it and it fits 28 GB of RAM"),
        ("quality", "Q4_K_M: the largest that fits 28 GB of RAM"),
    ],
)
def test_reason_without_figures(policy: str, reason: str) -> None:
    files = tuple(
        replace(file, perplexity=None) for file in CATALOG.files if file.quant in ("Q2_K", "Q4_K_M")
    )
    catalog = replace(CATALOG, files=files)
    assert pick(catalog, n_ctx=4096, ram_bytes=28 * GB, policy=policy).reason == reason


@given(ram_bytes=st.integers(0, 100 * GB), policy=st.sampled_from(POLICIES))
def test_a_memory_as_large_as_a_reason_asks_for_is_enough(ram_bytes: int, policy: str) -> None:
    found = pick(CATALOG, n_ctx=4096, ram_bytes=ram_bytes, policy=policy)
    if "needs" not in found.reason:
        return
    needed_gb = float(found.reason.split("needs ")[1].split()[0])
    richer = pick(CATALOG, n_ctx=4096, ram_bytes=round(needed_gb * GB), policy="quality")
    assert richer.chosen is not None
    if found.chosen:
        assert richer.chosen.facts.perplexity < found.chosen.facts.perplexity
