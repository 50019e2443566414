"""Where a file goes: RAM, VRAM, both, or the disk; machines as people have them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_hub.hub.fit import (
    Constraints,
    FileFacts,
    Machine,
    Verdict,
    fit_file,
    largest_n_ctx,
    need_of,
    pick,
    placement_of,
)
from gguf_hub.units import GB, GIB
from tests.hub.fit.test_memory import FACTS

LLAMA = Constraints(engine="llama.cpp", reserve_bytes=0)
OURS = Constraints(reserve_bytes=0)


def machine(ram: float, vram: float = 0, **more: object) -> Machine:
    """A machine with decimal gigabytes of memory."""
    return Machine(round(ram * GB), round(vram * GB), n_threads=8, **more)


@pytest.mark.parametrize(
    ("ram_gb", "vram_gb", "verdict"),
    [
        (1.5, 0, Verdict.TOO_BIG),
        (20, 0, Verdict.DISK),
        (24, 0, Verdict.RAM),
        (24, 24, Verdict.VRAM),
        (1, 24, Verdict.VRAM),
        (24, 8, Verdict.SPLIT),
        (12, 12, Verdict.SPLIT),
        (8, 8, Verdict.DISK),
        (24, 1, Verdict.RAM),
    ],
)
def test_verdict(ram_gb: float, vram_gb: float, verdict: Verdict) -> None:
    placement = placement_of(FACTS["Q3_K_M"], LLAMA, machine(ram_gb, vram_gb))
    assert placement.verdict is verdict
    assert placement.ram_bytes <= ram_gb * GB or verdict is Verdict.TOO_BIG
    assert placement.vram_bytes <= vram_gb * GB


def test_our_runner_has_no_use_for_a_gpu() -> None:
    assert placement_of(FACTS["Q3_K_M"], OURS, machine(24, 80)).verdict is Verdict.RAM
    assert placement_of(FACTS["Q3_K_M"], OURS, machine(8, 80)).verdict is Verdict.DISK


@pytest.mark.parametrize(
    ("vram_gb", "k"), [(24, 6), (12, 21), (80, 0)], ids=["24 GB", "12 GB", "80 GB"]
)
def test_layers_whose_experts_stay_in_ram(vram_gb: int, k: int) -> None:
    placement = placement_of(FACTS["Q4_K_M"], LLAMA, machine(64, vram_gb))
    assert (placement.n_gpu_layers, placement.n_cpu_moe) == (99, k)
    assert placement.verdict is (Verdict.SPLIT if k else Verdict.VRAM)


def test_all_experts_in_ram_need_little_vram() -> None:
    placement = placement_of(FACTS["Q4_K_M"], LLAMA, machine(64, 3.2))
    assert placement.n_cpu_moe == 32
    assert placement.vram_bytes / GB == pytest.approx(2.01, abs=0.01)


def test_a_dense_model_is_split_by_layers() -> None:
    facts = replace(FACTS["Q4_0"], shape=replace(FACTS["Q4_0"].shape, n_expert=0, n_expert_used=0))
    placement = placement_of(facts, LLAMA, machine(32, 12))
    # 0.82 GB for a layer, 1.6 GB of margin, context and scratch
    assert (placement.n_gpu_layers, placement.n_cpu_moe) == (12, 0)
    assert placement.verdict is Verdict.SPLIT
    total = placement.ram_bytes + placement.vram_bytes
    assert total / GB == pytest.approx(27.20 + 0.26 + 0.21, abs=0.01)


def test_each_layer_takes_its_own_cache_along() -> None:
    """Of 32 layers the last 31 have a window: the last n take no 32nd part of the cache each."""
    facts = FACTS["Q4_0"]
    windows = (facts.layers[0], *(replace(layer, n_swa=512) for layer in facts.layers[1:]))
    shape = replace(facts.shape, n_expert=0, n_expert_used=0)
    constraints = replace(LLAMA, n_ctx=32768)
    placement = placement_of(
        replace(facts, shape=shape, layers=windows), constraints, machine(32, 24)
    )
    need = need_of(replace(facts, layers=windows), constraints)
    kv_bytes = 1024 * 2 * 2 * 1024  # positions, K and V, bytes, numbers
    assert set(need.layer_kv_bytes[1:]) == {kv_bytes}
    layers = facts.dense_bytes + facts.expert_bytes - output_bytes(facts)
    assert 0 < placement.n_gpu_layers < 32
    assert placement.vram_bytes == pytest.approx(
        placement.n_gpu_layers * (layers / 32 + kv_bytes) + need.scratch_bytes + 260e6, abs=32
    )


def output_bytes(facts: FileFacts) -> int:
    return sum(share.size_bytes for share in facts.tensors if share.role == "output")


def test_several_gpus_have_a_margin_each() -> None:
    one, two = (placement_of(FACTS["Q4_K_M"], LLAMA, machine(64, 24, n_gpus=n)) for n in (1, 2))
    assert two.n_cpu_moe > one.n_cpu_moe


def test_what_does_not_fit_is_read_from_disk() -> None:
    placement = placement_of(FACTS["Q4_K_M"], OURS, machine(20))
    assert placement.verdict is Verdict.DISK
    assert placement.ram_bytes == 20 * GB
    # 27.2 GB needed, 0.1 of it embeddings that few rows of are read
    assert placement.lacking_bytes / GB == pytest.approx(7.25, abs=0.05)
    assert placement.miss_share == pytest.approx(7.15 / 25.37, abs=0.01)


def test_a_gpu_leaves_less_to_the_disk() -> None:
    with_gpu = placement_of(FACTS["Q4_K_M"], LLAMA, machine(12, 8))
    without = placement_of(FACTS["Q4_K_M"], LLAMA, machine(12))
    assert with_gpu.verdict is without.verdict is Verdict.DISK
    assert with_gpu.miss_share < without.miss_share


def test_reserve_is_left_to_others() -> None:
    assert Constraints().reserve_of(machine(24)) == 1.5 * GB
    assert Constraints().reserve_of(machine(4)) == 0.4 * GB
    assert replace(OURS, reserve_bytes=2 * GB).limit_of(machine(1)) == 0
    fits = [
        placement_of(FACTS["Q3_K_M"], replace(OURS, reserve_bytes=r * GB), machine(24))
        for r in (2, 3)
    ]
    assert [each.verdict for each in fits] == [Verdict.RAM, Verdict.DISK]


def test_a_file_that_we_cannot_run_is_no_candidate() -> None:
    facts = replace(FACTS["Q4_K_M"], obstacles=("architecture `gemma`",))
    assert placement_of(facts, OURS, machine(64)).verdict is Verdict.NOT_HERE
    assert placement_of(facts, LLAMA, machine(64)).verdict is Verdict.RAM
    found = pick([facts], machine(64), OURS)
    assert found.chosen is None
    assert found.reason == "Q4_K_M does not run in gguf-hub: architecture `gemma`"
    found = pick([facts, replace(facts, quant="Q5_0")], machine(64), OURS)
    assert found.reason == ("none of the 2 files runs in gguf-hub; Q4_K_M: architecture `gemma`")


def test_a_memory_of_exactly_the_need_fits_and_a_byte_less_does_not() -> None:
    need_bytes = need_of(FACTS["Q2_K"], replace(OURS, n_ctx=512)).total_bytes
    for less, fits in ((0, True), (1, False)):
        fit = fit_file(FACTS["Q2_K"], Machine(need_bytes - less), replace(OURS, n_ctx=512))
        assert fit.is_fitting is fits


@settings(deadline=None)  # a busy machine is no failure
@given(
    ram=st.integers(0, 100 * GB),
    vram=st.integers(0, 100 * GB),
    quant=st.sampled_from(list(FACTS)),
    engine=st.sampled_from(["gguf-hub", "llama.cpp"]),
)
def test_largest_context_fits_and_one_token_more_does_not(
    ram: int, vram: int, quant: str, engine: str
) -> None:
    facts, constraints, there = FACTS[quant], Constraints(engine=engine), Machine(ram, vram)
    n_ctx = largest_n_ctx(facts, there, constraints)

    def fits(tokens: int) -> bool:
        return placement_of(facts, replace(constraints, n_ctx=tokens), there).verdict.is_in_memory

    assert n_ctx == 0 or fits(n_ctx)
    assert n_ctx == 2**20 or not fits(n_ctx + 1)


@settings(deadline=None)  # a busy machine is no failure
@given(
    ram=st.integers(0, 60 * GB),
    vram=st.integers(0, 60 * GB),
    more=st.integers(0, 20 * GB),
    quant=st.sampled_from(list(FACTS)),
)
def test_more_memory_never_takes_a_place_away(ram: int, vram: int, more: int, quant: str) -> None:
    before = placement_of(FACTS[quant], LLAMA, Machine(ram, vram)).verdict
    after = placement_of(FACTS[quant], LLAMA, Machine(ram + more, vram)).verdict
    assert after.is_in_memory or not before.is_in_memory


# ---- machines as people have them --------------------------------------------------------------

# ram, vram in GB, more of the machine; engine; balanced and quality
MACHINES: dict[str, tuple[Machine, str, str | None, str | None]] = {
    "24 GB": (machine(24), "gguf-hub", "Q3_K_M", "Q3_K_M"),
    "32 GiB": (machine(32 * GIB / GB), "gguf-hub", "Q4_K_M", "Q4_0"),
    "48 GB": (machine(48), "gguf-hub", "Q5_K_M", "Q6_K"),
    "64 GB": (machine(64), "gguf-hub", "Q5_K_M", "Q8_0"),
    "6 GB left of a container": (machine(6), "gguf-hub", None, None),
    "24 GB of VRAM and 32 GB": (machine(32, 24), "llama.cpp", "Q5_K_M", "Q8_0"),
    "8 GB of VRAM and 16 GB": (machine(16, 8), "llama.cpp", "Q2_K", "Q2_K"),
    "8 GB of VRAM and 17 GB": (machine(17, 8), "llama.cpp", "Q3_K_M", "Q3_K_M"),
    "80 GB of VRAM": (machine(8, 80), "llama.cpp", "Q5_K_M", "Q8_0"),
    "36 GB unified": (machine(36, 24, is_unified=True), "llama.cpp", "Q5_K_M", "Q5_K_M"),
    "36 GB unified, our runner": (machine(36, 24, is_unified=True), "gguf-hub", "Q5_K_M", "Q5_K_M"),
    "nothing": (machine(0), "gguf-hub", None, None),
}


@pytest.mark.parametrize("name", MACHINES)
def test_what_is_picked_for(name: str) -> None:
    there, engine, balanced, quality = MACHINES[name]
    files: list[FileFacts] = list(FACTS.values())
    for policy, expected in (("balanced", balanced), ("quality", quality)):
        chosen = pick(files, there, Constraints(engine=engine, policy=policy)).chosen
        assert (chosen.facts.quant if chosen else None) == expected


def test_unified_memory_is_counted_once() -> None:
    there = machine(36, 24, is_unified=True)
    small, large = (placement_of(FACTS[q], LLAMA, there) for q in ("Q3_K_M", "Q5_K_M"))
    assert (small.verdict, large.verdict) == (Verdict.VRAM, Verdict.RAM)
    assert small.ram_bytes + small.vram_bytes <= 24 * GB
    assert placement_of(FACTS["Q6_K"], LLAMA, there).verdict is Verdict.DISK
