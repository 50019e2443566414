"""Every step between matrix products, on a GPU as on the CPU: the same memory afterwards, all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from gguf_hub.gguf.memory.activations import activation_bytes, activation_floats
from gguf_hub.run.gpu.fusion import fuse
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.vm.ops import (
    ARGUMENTS,
    N_PAIRS,
    N_TOKENS,
    SOFTMAX,
    step,
)
from tests.run.gpu.twin import Arrays, Header, Twin, assert_same, integers, one
from tests.run.kernels.inputs import ROUTES, STATE_STEPS, StateStep, floats

TOKENS = (1, 2, 5, 33)
ULP = 2.0**-23


# -- rows ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A step: its arrays for so many tokens, its other arguments, and how near the GPU must come.

    Exact, unless it sums up or calls an elementary function.
    """

    kernel: str
    arrays: Callable[[int], Arrays]
    numbers: dict[str, int] = field(default_factory=dict)
    tolerance: float = 0.0
    n_used: int = 1


def gated(t: int) -> Arrays:
    return {"gate": floats(t, 37, spread=5), "up": floats(t, 37, spread=5, seed=1)}


def pairs(t: int) -> Arrays:
    return {"y": floats(t, 3, 37), "expert_ids": integers(5, t, 3)}


def quantised(kind: str, width: int, per_row: int) -> Callable[[int], Arrays]:
    def arrays(t: int) -> Arrays:
        x = floats(t * per_row, width, spread=3)
        x[0, : width // 2] = 0
        x[-1, -5] *= 40
        rows = t * per_row
        xq = np.zeros(rows * activation_bytes(kind, width), np.int8)  # type: ignore[arg-type]
        return {"x": x, "xq": xq, "xf": floats(rows * activation_floats(kind, width))}  # type: ignore[arg-type]

    return arrays


COPIED = {"x_stride": 40, "x_step": 12, "y_stride": 50, "y_step": 16, "width": 11, "per_row": 3}
CASES = {
    "copy_rows": Case("copy_rows", lambda t: {"x": floats(t + 4, 37), "rows": integers(t + 4, t),
                                              "y": floats(t, 37, seed=2)}, {"width": 37}),
    "copy_parts": Case("copy_parts", lambda t: {"x": floats(t, 40), "y": floats(t, 50)}, COPIED),
    "rms_norm": Case("rms_norm", lambda t: {"x": floats(t, 700), "gain": floats(700), "y":
                     floats(t, 700, seed=1), "epsilon": one(1e-5)}, {"width": 700, "per_row": 1},
                     8 * ULP),
    "rms_norm of heads": Case(
        "rms_norm", lambda t: {"x": floats(t, 3, 65, spread=9), "gain": floats(65), "y":
                               floats(t, 3, 65, seed=1), "epsilon": one(1e-5)},
        {"width": 65, "per_row": 3}, 8 * ULP),
    "rms_norm in place": Case(
        "rms_norm", lambda t: {"x": floats(t, 300), "gain": floats(300), "epsilon": one(1e-5)},
        {"width": 300, "per_row": 1, "y": -1}, 8 * ULP),
    "group_norm": Case("group_norm", lambda t: {"x": floats(t, 3, 65), "gain": floats(3, 65),
                       "epsilon": one(1e-5)}, {"width": 65, "n_group": 3}, 8 * ULP),
    "l2_norm": Case("l2_norm", lambda t: {"x": floats(t, 210), "epsilon": one(1e-6)},
                    {"stride": 210, "width": 65, "per_row": 3}, 8 * ULP),
    "layer_norm": Case("layer_norm", lambda t: {"x": floats(t, 700), "gain": floats(700),
                       "bias": floats(700, seed=1), "y": floats(t, 700, seed=2),
                       "epsilon": one(1e-5)}, {"width": 700, "per_row": 1, "step": 0}, 8 * ULP),
    "layer_norm of heads": Case(
        "layer_norm", lambda t: {"x": floats(t, 3, 65, spread=9), "gain": floats(3, 65),
                                 "bias": floats(3, 65, seed=1), "y": floats(t, 3, 65, seed=2),
                                 "epsilon": one(1e-5)},
        {"width": 65, "per_row": 3, "step": 65}, 8 * ULP),
    # the CPU's mean is rounded to a float: by 2**-15 where the spread is 0.01
    "layer_norm far from 0": Case(
        "layer_norm", lambda t: {"x": 1000 + floats(t, 700, spread=0.01), "gain": floats(700),
                                 "bias": floats(700, seed=1), "epsilon": one(1e-9)},
        {"width": 700, "per_row": 1, "step": 0, "y": -1}, 2**-8),
    "add_bias": Case("add_bias", lambda t: {"y": floats(t, 37), "bias": floats(37)}, {"width": 37}),
    "add_expert_bias": Case(
        "add_expert_bias", lambda t: {**pairs(t), "biases": floats(5, 37)},
        {"width": 37, "n_expert": 5, "count": N_PAIRS}, n_used=3),
    "scale_by_expert": Case(
        "scale_by_expert", lambda t: {**pairs(t), "scales": floats(5)},
        {"width": 37, "n_expert": 5, "count": N_PAIRS}, n_used=3),
    "scale_rows": Case("scale_rows", lambda t: {"x": floats(t, 37), "factor": one(0.3)},
                       {"width": 37}),
    "add_rows": Case("add_rows", lambda t: {"x": floats(t, 37), "y": floats(t, 37, seed=1),
                     "factor": one(0.3)}, {"width": 37}, ULP),
    "soft_cap": Case("soft_cap", lambda t: {"x": floats(t, 37, spread=40), "cap": one(30)},
                     {"width": 37}, 2 * ULP),
    "clamp_rows": Case("clamp_rows", lambda t: {"x": floats(t, 37), "cap": one(0.7)},
                       {"width": 37}),
    "sigmoid_scale": Case("sigmoid_scale", lambda t: {"y": floats(t, 37), "gate":
                          floats(t, spread=30)}, {"width": 37, "per_row": 1}, 2 * ULP),
    "sigmoid_scale of heads": Case(
        "sigmoid_scale", lambda t: {"y": floats(t, 3, 11), "gate": floats(t, 3, spread=30)},
        {"width": 11, "per_row": 3}, 2 * ULP),
    "sigmoid_gate": Case(
        "sigmoid_gate", lambda t: {"y": floats(t, 3, 11), "gate": floats(t, 3, 24, spread=30)},
        {"stride": 24, "width": 11, "per_row": 3}, 2 * ULP),
    "silu_gate": Case("silu_gate", lambda t: {"y": floats(t, 37), "gate": floats(t, 50, spread=9)},
                      {"stride": 50, "width": 37}, 2 * ULP),
    "mul_rows": Case("mul_rows", lambda t: {"y": floats(t, 50), "x": floats(t, 41)},
                     {"y_stride": 50, "x_stride": 41, "width": 37}),
    "match_lengths": Case("match_lengths", lambda t: {"y": floats(t, 300), "x": floats(t, 300,
                          seed=1)}, {"width": 300}, 8 * ULP),
    "sparsify": Case("sparsify", lambda t: {"x": floats(t, 300), "factor": one(0.5)},
                     {"width": 300}, 32 * ULP),
    "altup_predict": Case(
        "altup_predict", lambda t: {"x": floats(3, 40, 37), "gates": floats(t, 3),
                                    "weights": floats(3, 3, 3), "y": floats(3, 40, 37, seed=1)},
        {"width": 37, "n_stream": 3, "stride": 40 * 37}, 8 * ULP),
    "altup_correct": Case(
        "altup_correct", lambda t: {"x": floats(t, 37), "predicted": floats(3, 40, 37),
                                    "gates": floats(t, 3), "weights": floats(3, 3),
                                    "y": floats(3, 40, 37, seed=1)},
        {"width": 37, "n_stream": 3, "stride": 40 * 37}, 8 * ULP),
    "scale_by_position": Case(
        "scale_by_position", lambda t: {"x": floats(t, 37), "scale": one(0.1)},
        {"width": 37, "length": 3, "offset": 1}, 4 * ULP),
    "quantize_q8_0": Case("quantize_q8_0", quantised("q8_0", 352, 1),
                          {"width": 352, "per_row": 1}),
    "quantize_q8_0 of heads": Case("quantize_q8_0", quantised("q8_0", 64, 3),
                                   {"width": 64, "per_row": 3}),
    "quantize_q8_k": Case("quantize_q8_k", quantised("q8_k", 1280, 1),
                          {"width": 1280, "per_row": 1}),
    "quantize_q8_k of heads": Case("quantize_q8_k", quantised("q8_k", 256, 3),
                                   {"width": 256, "per_row": 3}),
    "silu_mul": Case("silu_mul", gated, {"width": 37}, 2 * ULP),
    "gelu_mul": Case("gelu_mul", gated, {"width": 37}, 2 * ULP),
    "swiglu_clamp": Case("swiglu_clamp", lambda t: {**gated(t), "limit": one(0.5)},
                         {"width": 37}, 2 * ULP),
    "relu_mul": Case("relu_mul", gated, {"width": 37}),
    "swiglu_oai": Case("swiglu_oai", gated, {"width": 37}, 2 * ULP),
    "relu2": Case("relu2", lambda t: {"gate": floats(t, 37)}, {"width": 37}),
    "gelu": Case("gelu", lambda t: {"gate": floats(t, 37, spread=3)}, {"width": 37}, 2 * ULP),
    "xielu": Case("xielu", lambda t: {"gate": floats(t, 37, spread=3), "a": np.array(
                  [1.1, 0.8, 0.5, -1e-6], np.float32)}, {"width": 37}, 4 * ULP),
    "scale_pairs": Case(
        "scale_pairs", lambda t: {"x": floats(t, 37), "weights": floats(t, 3),
                                  "y": floats(t, 3, 37)},
        {"width": 37, "n_expert_used": 3}, n_used=3),
}  # fmt: skip
for is_added in (0, 1):
    for is_weighted in (0, 1):
        CASES[f"combine, {is_added}, {is_weighted}"] = Case(
            "combine", lambda t: {"y": floats(t, 3, 37), "weights": floats(t, 3), "x":
                                  floats(t, 37, seed=1)},
            {"width": 37, "n_expert_used": 3, "is_added": is_added, "is_weighted": is_weighted},
            2 * ULP, n_used=3)  # fmt: skip


@pytest.mark.parametrize("t", TOKENS)
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_rows(case: Case, t: int, device: Any, builder: KernelBuilder) -> None:
    twin = Twin(device, builder, case.arrays(t))
    numbers = dict(case.numbers)
    if numbers.get("y") == -1:
        numbers["y"] = twin.at["x"]
    if "count" in ARGUMENTS[case.kernel]:
        numbers.setdefault("count", N_TOKENS)
    gpu = twin.run([step(case.kernel, **twin.at, **numbers)], Header(t, 7, case.n_used))
    assert_same(case.kernel, twin, gpu, case.tolerance)


@pytest.mark.parametrize(
    "name", ["rms_norm of heads", "silu_mul", "quantize_q8_0", "combine, 1, 1"]
)
def test_more_workgroups_than_a_row_of_them(
    name: str, device: Any, builder: KernelBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond 65535, here beyond 2, a grid goes on in its next row."""
    monkeypatch.setattr("gguf_hub.run.gpu.steps.MAX_GROUPS", 2)
    test_rows(CASES[name], 33, device, builder)


ACTIVATIONS = ("silu_mul", "gelu_mul", "swiglu_oai")


@pytest.mark.parametrize("t", TOKENS)
@pytest.mark.parametrize("kind", ["q8_0", "q8_k"])
@pytest.mark.parametrize("name", ["rms_norm", "rms_norm in place", *ACTIVATIONS])
def test_steps_that_one_kernel_does(
    name: str, kind: str, t: int, device: Any, builder: KernelBuilder
) -> None:
    width, parts = 1280, 2
    arrays = quantised(kind, width, parts)(t)
    arrays |= {"gain": floats(width), "epsilon": one(1e-5), "up": floats(t, parts * width, seed=1),
               "y": floats(t, parts * width, seed=2)}  # fmt: skip
    twin = Twin(device, builder, arrays)
    at = dict(twin.at) | {"gate": twin.at["x"], "width": width, "per_row": parts, "count": 0}
    if name.startswith("rms_norm"):
        if name.endswith("place"):
            at["y"] = at["x"]
        first = step("rms_norm", **{each: at[each] for each in ARGUMENTS["rms_norm"]})
        source = at["y"]
    else:
        wide = at | {"width": parts * width}
        first = step(name, **{each: wide[each] for each in ARGUMENTS[name]})
        source = at["x"]
    second = step(f"quantize_{kind}", **{each: (at | {"x": source})[each]
                                         for each in ARGUMENTS[f"quantize_{kind}"]})  # fmt: skip
    assert fuse([first, second]) == [(first, second)]
    assert_same("fused", twin, twin.run([first, second], Header(t)), 1e-3, but=())


def test_only_what_is_quantised_itself_is_fused() -> None:
    norm = {"x": 0, "gain": 64, "width": 256, "epsilon": 1, "y": 512, "count": 0, "per_row": 2}
    quantize = {"x": 512, "width": 256, "xq": 0, "xf": 9, "count": 0, "per_row": 2}
    first = step("rms_norm", **norm)
    for change in ({"x": 768}, {"width": 512, "per_row": 1}, {"count": 2}, {"per_row": 1}):
        second = step("quantize_q8_k", **{**quantize, **change})
        assert fuse([first, second]) == [(first,), (second,)]
    second = step("quantize_q8_k", **quantize)
    again = step("quantize_q8_0", **quantize)
    assert fuse([second, first, second, again]) == [(second,), (first, second), (again,)]


@pytest.mark.parametrize("kernel", [*ACTIVATIONS, "relu2", "gelu"])
def test_activations_of_what_is_large_or_no_number(
    kernel: str, device: Any, builder: KernelBuilder
) -> None:
    edges = [0, -0.0, 1e-20, 88, -88, 89, -89, 1e4, -1e4, 1e30, -1e30, np.nan, np.inf, -np.inf]
    up = np.full((1, len(edges)), 0.7, np.float32)
    arrays = {"gate": np.array([edges], np.float32), "up": up}
    if "up" not in ARGUMENTS[kernel]:
        del arrays["up"]
    if kernel == "relu2":
        arrays["gate"][:, -5:-3] = 3  # whose squares are no float
    twin = Twin(device, builder, arrays)
    gpu = twin.run([step(kernel, **twin.at, width=len(edges), count=N_TOKENS)], Header(1))
    x, y = twin.view(gpu, "gate"), twin.view(twin.cpu, "gate")
    np.testing.assert_allclose(x, y, rtol=4 * ULP, atol=1e-30)


@pytest.mark.parametrize("kind", ["q8_0", "q8_k"])
def test_ties_and_small_scales_are_quantised_alike(
    kind: str, device: Any, builder: KernelBuilder
) -> None:
    if "generic" in builder.cpu.isa:
        pytest.skip("on this CPU halves are rounded away from zero: see simd_activations")
    x = floats(3, 256)
    x[0] = 0
    x[1, ::32], x[1, 1::2] = 127, np.resize([0.5, -0.5, 1.5, 0.49999997, 2.5, -126.5, 0], 128)
    x[2] *= np.float32(1e-6)  # scales that are no normal half
    twin = Twin(device, builder, quantised(kind, 256, 1)(3) | {"x": x})
    steps = [step(f"quantize_{kind}", **twin.at, width=256, per_row=1, count=N_TOKENS)]
    assert_same(f"quantize_{kind}", twin, twin.run(steps, Header(3)), 0)


@pytest.mark.parametrize("kind", ["q8_0", "q8_k"])
def test_numbers_that_are_none_make_a_scale_so(
    kind: str, device: Any, builder: KernelBuilder
) -> None:
    x = floats(4, 256)
    x[0, 40], x[1, 70], x[2, 255] = np.nan, np.inf, -np.inf
    twin = Twin(device, builder, quantised(kind, 256, 1)(4) | {"x": x})
    steps = [step(f"quantize_{kind}", **twin.at, width=256, per_row=1, count=N_TOKENS)]
    gpu = twin.run(steps, Header(4))
    found, expected = (np.isnan(twin.view(each, "xf")) for each in (gpu, twin.cpu))
    np.testing.assert_array_equal(found, expected)
    assert found.sum() >= 3
    own = activation_bytes(kind, 256)  # type: ignore[arg-type]
    np.testing.assert_array_equal(*(twin.view(each, "xq")[3 * own :] for each in (gpu, twin.cpu)))


@pytest.mark.parametrize("t", TOKENS)
@pytest.mark.parametrize("is_neox", [0, 1])
@pytest.mark.parametrize("n_rot", [0, 6, 10])
def test_heads_are_rotated(
    n_rot: int, is_neox: int, t: int, device: Any, builder: KernelBuilder
) -> None:
    twin = Twin(device, builder, {"x": floats(t, 3, 10), "table": floats(t, n_rot)})
    one_step = step("rotate", **twin.at, n_head=3, head_dim=10, n_rot=n_rot, is_neox=is_neox)
    assert_same("rotate", twin, twin.run([one_step], Header(t)), ULP)


# -- states ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", TOKENS)
@pytest.mark.parametrize("position", [0, 5])
@pytest.mark.parametrize("case", STATE_STEPS.values(), ids=list(STATE_STEPS))
def test_states(
    case: StateStep, position: int, t: int, device: Any, builder: KernelBuilder
) -> None:
    stride = -(-case.state_size // 64) * 64
    arrays = {**case.rows_of(t), **case.shared, "state": floats(3, stride),
              "y": floats(t, case.width, seed=1)}  # fmt: skip
    twin = Twin(device, builder, arrays)
    numbers = {**case.numbers, "state_stride": stride}
    gpu = twin.run([step(case.kernel, **twin.at, **numbers)], Header(t, position, slot=1))
    assert_same(case.kernel, twin, gpu, (8 if case.kernel == "causal_conv" else 32) * ULP)


# -- routing ---------------------------------------------------------------------------------------


def routed(
    logits: np.ndarray, n_used: int, device: Any, builder: KernelBuilder, **route: Any
) -> tuple[Twin, dict[str, np.ndarray]]:
    """Choose experts on both."""
    t, n_expert = logits.shape
    arrays = {
        "logits": logits.astype(np.float32), "bias": floats(n_expert, spread=0.3),
        "scale": one(route.pop("scale", 1.0)), "weights": floats(t, n_used),
        "expert_ids": integers(9, t, n_used), "expert_starts": integers(9, n_expert + 1),
        "assignments": integers(9, t * n_used),
    }  # fmt: skip
    twin = Twin(device, builder, arrays)
    numbers = {"has_bias": 0, "n_group": 1, "n_group_used": 1, "is_normalized": 0, **route}
    one_step = step("top_k_gate", **twin.at, **numbers, n_expert=n_expert, n_expert_used=n_used,
                    count=N_TOKENS)  # fmt: skip
    return twin, twin.run([one_step], Header(t, n_used=n_used))


@pytest.mark.slow
@pytest.mark.parametrize("t", TOKENS)
@pytest.mark.parametrize("n_used", [1, 3])
@pytest.mark.parametrize("route", ROUTES.values(), ids=list(ROUTES))
def test_experts(
    route: dict[str, Any], n_used: int, t: int, device: Any, builder: KernelBuilder
) -> None:
    twin, gpu = routed(floats(t, 24, spread=2), n_used, device, builder, **route)
    assert_same("top_k_gate", twin, gpu, 8 * ULP)


@pytest.mark.parametrize("spread", [0, 2])
@pytest.mark.parametrize("t", [1, 300])
def test_many_experts(t: int, spread: int, device: Any, builder: KernelBuilder) -> None:
    """More experts than threads, more pairs than a workgroup takes at once; of equals the first."""
    logits = floats(t, 160, spread=spread)
    twin, gpu = routed(logits, 6, device, builder, function=SOFTMAX)
    assert_same("top_k_gate", twin, gpu, 8 * ULP)


@pytest.mark.parametrize("route", ROUTES.values(), ids=list(ROUTES))
@pytest.mark.parametrize("value", [0.0, -np.inf, np.nan], ids=str)
def test_experts_of_a_token_differ_whatever_the_logits(
    route: dict[str, Any], value: float, device: Any, builder: KernelBuilder
) -> None:
    route = {**route, "has_bias": 0}
    twin, gpu = routed(np.full((5, 24), value), 3, device, builder, **route)
    ids = twin.view(gpu, "expert_ids").reshape(5, 3)
    assert all(len(set(row)) == 3 and min(row) >= 0 and max(row) < 24 for row in ids.tolist())
    if value == 0:
        np.testing.assert_array_equal(ids, np.tile([0, 1, 2], (5, 1)))
