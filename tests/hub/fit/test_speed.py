"""Tokens a second: what bounds them, and what must hold of any machine."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_hub.gguf.types import RUNNABLE_TYPES
from gguf_hub.hub.fit import Constraints, FileFacts, Machine, Speed, isa_of, placement_of, speed_of
from gguf_hub.hub.fit.rates import LLAMA_CPP, RUNNER, rates_of
from gguf_hub.units import GB
from tests.hub.fit.test_memory import FACTS

FAST = Machine(100 * GB, n_threads=64, isa="avx512vnni", ram_bytes_per_s=60e9)


SHORT = Constraints(n_ctx=64)


def speed(facts: FileFacts, machine: Machine, constraints: Constraints = SHORT) -> Speed | None:
    return speed_of(facts, constraints, machine, placement_of(facts, constraints, machine))


# active bytes over bandwidth, by hand: tok/s at 20, 40 and 60 GB/s
CEILINGS = {"Q2_K": (4.4, 8.9, 13.3), "Q4_K_M": (2.7, 5.4, 8.2), "Q8_0": (1.5, 3.0, 4.4)}


@pytest.mark.parametrize("quant", CEILINGS)
def test_memory_is_the_roof_where_there_are_threads_enough(quant: str) -> None:
    for rate, ceiling in zip((20e9, 40e9, 60e9), CEILINGS[quant], strict=True):
        found = speed(FACTS[quant], replace(FAST, ram_bytes_per_s=rate))
        assert found is not None
        assert found.about_tok_per_s <= ceiling + 0.05
        assert found.about_tok_per_s >= 0.8 * ceiling
        assert found.basis == "measured"


def test_cores_are_the_roof_where_there_are_few() -> None:
    wide = replace(FAST, ram_bytes_per_s=300e9)
    one, two = (speed(FACTS["Q4_K_M"], replace(wide, n_threads=n)) for n in (1, 2))
    assert one and two
    assert two.about_tok_per_s == pytest.approx(2 * one.about_tok_per_s, rel=0.05)


def test_numbers_of_a_cache_take_the_time_of_numbers() -> None:
    """Where cores are the roof, a cache of fewer bytes is read no sooner: there are as many."""
    slow = replace(FAST, ram_bytes_per_s=1e12, n_threads=1)
    found = [
        speed(FACTS["Q2_K"], slow, Constraints(n_ctx=32768, kv_type=type_))
        for type_ in ("q8_0", "f16", "f32")
    ]
    low, middle, high = (each.about_tok_per_s for each in found if each)
    assert low == pytest.approx(middle) == pytest.approx(high)


def test_what_nobody_measured_is_a_wide_range() -> None:
    known, guessed = (
        speed(FACTS["Q4_K_M"], FAST),
        speed(FACTS["Q4_K_M"], replace(FAST, ram_bytes_per_s=None)),
    )
    assert known and guessed
    assert guessed.basis == "assumed"
    assert guessed.high_tok_per_s / guessed.low_tok_per_s > 3
    assert known.high_tok_per_s / known.low_tok_per_s == pytest.approx(1.5)


def test_a_gpu_that_tells_no_bandwidth_gives_no_speed() -> None:
    constraints = Constraints(engine="llama.cpp")
    machine = replace(FAST, vram_bytes=24 * GB)
    assert speed(FACTS["Q4_K_M"], machine, constraints) is None
    found = speed(FACTS["Q4_K_M"], replace(machine, gpu_bytes_per_s=936e9), constraints)
    alone = speed(FACTS["Q4_K_M"], FAST, constraints)
    assert found and alone
    assert found.about_tok_per_s > 2 * alone.about_tok_per_s


def test_what_was_measured_of_a_gpu_replaces_the_guess() -> None:
    """Time beside reading stays the same; llama.cpp's kernels are others."""
    machine = replace(FAST, vram_bytes=80 * GB, can_offload=True)
    ours, theirs = SHORT, replace(SHORT, engine="llama.cpp")
    named = replace(machine, gpu_bytes_per_s=900e9)
    guessed = speed(FACTS["Q4_K_M"], named, ours)
    same, half = (
        speed(FACTS["Q4_K_M"], replace(named, gpu_weights_bytes_per_s=rate), ours)
        for rate in (360e9, 180e9)
    )
    assert guessed and same and half
    assert same.about_tok_per_s == pytest.approx(guessed.about_tok_per_s)
    reading_s = FACTS["Q4_K_M"].active_bytes / 360e9
    more_s = 1 / half.about_tok_per_s - 1 / same.about_tok_per_s
    assert more_s == pytest.approx(reading_s, rel=0.01)
    assert (guessed.basis, same.basis) == ("assumed", "measured")
    assert same.high_tok_per_s < guessed.high_tok_per_s
    # whatever its driver tells
    assert speed(FACTS["Q4_K_M"], machine, ours) is None
    assert speed(FACTS["Q4_K_M"], replace(machine, gpu_weights_bytes_per_s=360e9), ours) == same
    other = replace(named, gpu_weights_bytes_per_s=1e9)
    assert speed(FACTS["Q4_K_M"], other, theirs) == speed(FACTS["Q4_K_M"], named, theirs)


def test_layers_in_ram_want_its_bandwidth_measured_too() -> None:
    machine = replace(
        FAST, vram_bytes=12 * GB, can_offload=True, gpu_weights_bytes_per_s=360e9,
        gpu_bytes_per_s=900e9,
    )  # fmt: skip
    for ram_bytes_per_s, basis in ((60e9, "measured"), (None, "assumed")):
        found = speed(FACTS["Q4_K_M"], replace(machine, ram_bytes_per_s=ram_bytes_per_s))
        assert found is not None
        assert found.basis == basis


def test_too_big_has_no_speed() -> None:
    assert speed(FACTS["Q8_0"], Machine(GB)) is None


def test_from_disk_the_low_end_finds_nothing_in_memory_again() -> None:
    machine = replace(FAST, ram_bytes=20 * GB, disk_bytes_per_s=1e9)
    found = speed(FACTS["Q4_K_M"], machine)
    assert found is not None
    # 6.3 GB of experts for a token, 31 % of them from disk (1.5 GB are left to others), or all
    assert found.about_tok_per_s == pytest.approx(1 / (6.34 * 0.313 + 0.14), rel=0.02)
    assert found.low_tok_per_s == pytest.approx(0.8 / (6.34 + 0.14), rel=0.02)
    assert speed(FACTS["Q4_K_M"], replace(machine, disk_bytes_per_s=None)).basis == "assumed"


@settings(deadline=None)  # a busy machine is no failure
@given(
    quant=st.sampled_from(list(FACTS)),
    rate=st.floats(1e9, 1e12),
    more=st.floats(1, 10),
    threads=st.integers(1, 64),
    ram=st.integers(2 * GB, 60 * GB),
)
def test_a_faster_machine_is_never_slower(
    quant: str, rate: float, more: float, threads: int, ram: int
) -> None:
    slow = Machine(ram, n_threads=threads, ram_bytes_per_s=rate, disk_bytes_per_s=1e9)
    fast = replace(slow, ram_bytes_per_s=rate * more, disk_bytes_per_s=1e9 * more)
    before, after = speed(FACTS[quant], slow), speed(FACTS[quant], fast)
    assert (before is None) == (after is None)
    if before and after:
        assert after.about_tok_per_s >= before.about_tok_per_s
        assert 0 < before.low_tok_per_s <= before.about_tok_per_s <= before.high_tok_per_s


def test_every_type_that_runs_has_a_rate() -> None:
    for rates in (*RUNNER.values(), LLAMA_CPP):
        assert set(rates.core_bytes_per_s) >= RUNNABLE_TYPES
    assert rates_of("llama.cpp", "generic") is LLAMA_CPP


@pytest.mark.parametrize(
    ("simd", "isa"),
    [
        ((), "generic"),
        (("asimd", "i8mm"), "generic"),
        (("asimd", "asimddp"), "dotprod"),
        (("avx2", "fma", "f16c"), "avx2"),
        (("avx2", "fma", "f16c", "avx512f", "avx512vl", "avx512bw"), "avx2"),
        (("avx2", "fma", "f16c", "avx_vnni"), "avxvnni"),
        (("avx2", "fma", "f16c", "avx512_vnni", "avx512vl", "avx512bw"), "avx512vnni"),
        (("avx512_vnni", "avx512vl", "avx512bw"), "generic"),
    ],
)
def test_kernels_by_what_the_cpu_has(simd: tuple[str, ...], isa: str) -> None:
    assert isa_of(simd) == isa
