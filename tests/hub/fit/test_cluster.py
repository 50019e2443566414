"""Which machines hold which layers: never over their memory, no plan is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_hub.gguf.types import QuantType
from gguf_hub.hub.fit import Constraints, FileFacts, LayerWeights, Machine, TensorShare
from gguf_hub.hub.fit.cluster import ClusterNode, ClusterPlan, ModelParts, _Search, plan_cluster
from gguf_hub.units import GB
from tests.hub.fit.test_memory import FACTS

OURS = Constraints(reserve_bytes=0, n_ctx=512)
MB = 10**6


def node(name: str, ram_gb: float, bw: float = 40, threads: int = 8, **more: float) -> ClusterNode:
    machine = Machine(
        round(ram_gb * GB), n_threads=threads, isa="avx2", ram_bytes_per_s=bw * 1e9
    )  # fmt: skip
    return ClusterNode(name, machine, **more)


def small(layers_mb: Sequence[int], *, is_tied: bool = False) -> FileFacts:
    """A dense model whose layers have some sizes."""
    facts = FACTS["Q8_0"]
    n = len(layers_mb)
    weights = tuple(LayerWeights(mb * MB // 4, mb * MB - mb * MB // 4) for mb in layers_mb)
    total = sum(layers_mb) * MB
    tensors = [
        TensorShare("token_embd", QuantType.Q8_0, 60 * MB, 60 * MB),
        TensorShare("attn", QuantType.Q8_0, 1, sum(w.dense_bytes for w in weights)),
        TensorShare("ffn", QuantType.Q8_0, 1, total - sum(w.dense_bytes for w in weights)),
    ]
    if not is_tied:
        tensors.append(TensorShare("output", QuantType.Q8_0, 70 * MB, 70 * MB))
    shape = replace(facts.shape, n_layer=n, n_expert=0, n_expert_used=0, layers=())
    return replace(facts, shape=shape, tensors=tuple(tensors), weights=weights)


def exhaustive(file: FileFacts, nodes: Sequence[ClusterNode]) -> tuple[int, float] | None:
    """Number of machines and time of the best plan, of all there are."""
    search = _Search(file, OURS, nodes, 1)
    n_parts = len(ModelParts(file, OURS).weights)
    for size in range(1, len(nodes) + 1):
        times = []
        for order in permutations(range(len(nodes)), size):
            for cuts in combinations(range(1, n_parts), size - 1):
                bounds = list(zip((0, *cuts), (*cuts, n_parts), strict=True))
                stages = [search._stage(i, *b) for i, b in zip(order, bounds, strict=True)]
                if all(stage.ram_bytes <= stage.limit_bytes for stage in stages):
                    hops = sum(search._hop_seconds(i) for i in order)
                    times.append(sum(stage.token_s for stage in stages) + hops)
        if times:
            return size, min(times)
    return None


LAYERS = st.lists(st.integers(20, 400), min_size=1, max_size=4)
NODES = st.lists(
    st.tuples(st.sampled_from([0.3, 0.5, 0.7, 1.2]), st.sampled_from([5, 10, 40, 100]),
              st.sampled_from([12.5e6, 125e6])),
    min_size=1, max_size=4,
)  # fmt: skip


def named(specs: Sequence[tuple[float, float, float]]) -> list[ClusterNode]:
    return [
        node(f"n{i}", ram, bw, link_bytes_per_s=link) for i, (ram, bw, link) in enumerate(specs)
    ]


def check(plan: ClusterPlan, file: FileFacts, nodes: Sequence[ClusterNode]) -> None:
    """A plan holds every layer once and no machine twice, and goes over no limit."""
    n_layer = file.shape.n_layer
    assert [i for s in plan.stages for i in range(s.first, s.end)] == list(range(n_layer))
    assert [s.has_embedding for s in plan.stages] == [True] + [False] * (len(plan.stages) - 1)
    assert [s.has_head for s in plan.stages] == [False] * (len(plan.stages) - 1) + [True]
    assert len({s.node for s in plan.stages}) == len(plan.stages)
    limits = {n.name: OURS.limit_of(n.machine) for n in nodes}
    assert all(s.ram_bytes <= limits[s.node] == s.limit_bytes for s in plan.stages)


@given(LAYERS, NODES, st.booleans())
@settings(max_examples=150)
def test_no_plan_is_better(layers: list[int], specs: list, is_tied: bool) -> None:
    file, nodes = small(layers, is_tied=is_tied), named(specs)
    plan, best = plan_cluster(file, OURS, nodes), exhaustive(file, nodes)
    if best is None:
        assert not plan.stages and plan.lacking_bytes > 0
    else:
        check(plan, file, nodes)
        assert len(plan.stages) == best[0]
        assert plan.token_s == pytest.approx(best[1], rel=1e-9)


@given(LAYERS, NODES, st.integers(0, 3), st.floats(1, 10))
@settings(max_examples=60)
def test_more_bandwidth_is_never_slower(
    layers: list[int], specs: list, which: int, factor: float
) -> None:
    file, nodes = small(layers), named(specs)
    plan = plan_cluster(file, OURS, nodes)
    chosen = nodes[which % len(nodes)]
    rate = chosen.machine.ram_bytes_per_s
    assert rate is not None
    faster = replace(chosen.machine, ram_bytes_per_s=rate * factor)
    nodes[which % len(nodes)] = replace(chosen, machine=faster)
    other = plan_cluster(file, OURS, nodes)
    assert len(other.stages) == len(plan.stages)
    assert other.token_s <= plan.token_s * (1 + 1e-9)


@given(LAYERS, NODES, st.sampled_from([0.3, 0.7, 2.0]))
@settings(max_examples=60)
def test_another_machine_never_needs_more_of_them(
    layers: list[int], specs: list, ram: float
) -> None:
    file, nodes = small(layers), named(specs)
    before, after = (plan_cluster(file, OURS, n) for n in (nodes, [*nodes, node("x", ram)]))
    if before.stages:
        assert 0 < len(after.stages) <= len(before.stages)


def test_one_machine_that_holds_it_is_used_alone() -> None:
    plan = plan_cluster(FACTS["Q4_K_M"], OURS, [node("big", 64), node("fast", 20, bw=200)])
    assert [(s.node, s.first, s.end) for s in plan.stages] == [("big", 0, 32)]


def test_the_faster_machine_holds_as_much_as_it_can() -> None:
    nodes = [node("a", 24, bw=20), node("b", 24, bw=80)]
    plan = plan_cluster(FACTS["Q8_0"], OURS, [*nodes, node("c", 24, bw=50)])
    check(plan, FACTS["Q8_0"], [*nodes, node("c", 24)])
    by_name = {s.node: s.end - s.first for s in plan.stages}
    assert by_name["b"] >= by_name["c"] > 0 and by_name["b"] > by_name["a"]


def test_machines_of_one_speed_share_evenly() -> None:
    nodes = [node("a", 30), node("b", 30), node("c", 30)]
    plan = plan_cluster(FACTS["Q8_0"], OURS, nodes)
    check(plan, FACTS["Q8_0"], nodes)
    assert [s.end - s.first for s in plan.stages] == [16, 16]


def test_evening_out_keeps_to_the_memory_of_each() -> None:
    nodes = [node("a", 38), node("b", 16)]
    plan = plan_cluster(FACTS["Q8_0"], OURS, nodes)
    check(plan, FACTS["Q8_0"], nodes)
    small_one = next(s for s in plan.stages if s.node == "b")
    one_more = small_one.ram_bytes + small_one.weights_bytes // (small_one.end - small_one.first)
    assert one_more > small_one.limit_bytes  # the other holds what does not fit


def test_ten_different_machines_are_searched_in_time() -> None:
    nodes = [node(f"n{i}", 6 + i / 10, bw=20 + i) for i in range(10)]
    check(plan_cluster(FACTS["Q8_0"], OURS, nodes), FACTS["Q8_0"], nodes)


def test_what_is_missing_is_told() -> None:
    plan = plan_cluster(FACTS["Q8_0"], OURS, [node("a", 16), node("b", 16)])
    assert plan.stages == ()
    assert 17e9 < plan.lacking_bytes < 20e9
    assert plan_cluster(FACTS["Q8_0"], OURS, []).stages == ()


def test_slots_take_memory() -> None:
    file, constraints = FACTS["Q8_0"], replace(OURS, n_ctx=32768)
    nodes = [node(f"n{i}", 20) for i in range(6)]
    few, many = (plan_cluster(file, constraints, nodes, n_slots=n) for n in (1, 8))
    kv = 2 * 8 * 128 * 2 * 32 * 32768
    total_few, total_many = (sum(s.ram_bytes for s in p.stages) for p in (few, many))
    parts = ModelParts(file, constraints, n_threads=8)
    extra = (len(many.stages) - len(few.stages)) * parts.own_bytes
    assert total_many - total_few == 7 * kv + extra
