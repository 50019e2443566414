"""Steps on rows and on experts against numpy in float64; the same bits compiled and on threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gguf_hub.errors import ProgramError
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.vm.extents import prove
from gguf_hub.run.kernels.vm.ops import (
    ARGUMENTS,
    N_PAIRS,
    SIGMOID,
    SIGMOID_OF_CHOSEN,
    SOFTMAX,
    SOFTMAX_OF_CHOSEN,
    step,
)
from tests.conftest import KERNELS
from tests.run.kernels.inputs import ROUTES
from tests.run.kernels.running import bounds_of, lay_out, prove_step, run_step

T, D = 5, 37  # tokens and width: no multiple of what vectors hold
ULP = 2**-23
RNG = np.random.default_rng(11)


def floats(*shape: int, spread: float = 1.0) -> np.ndarray:
    return (spread * RNG.standard_normal(shape)).astype(np.float32)


def one(value: float) -> np.ndarray:
    return np.array([value], np.float32)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def normed(x: np.ndarray, epsilon: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)


def swiglu_oai(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    gate = np.minimum(gate, 7)
    return gate * sigmoid(1.702 * gate) * (np.clip(up, -7, 7) + 1)


def of_length_one(x: np.ndarray, epsilon: float) -> np.ndarray:
    """Divide the first three parts of each row by their lengths."""
    parts = x[:, : 3 * D].reshape(T, 3, D)
    lengths = np.sqrt((parts**2).sum(-1, keepdims=True) + epsilon)
    return np.concatenate(((parts / lengths).reshape(T, 3 * D), x[:, 3 * D :]), 1)


X, Y, G = floats(T, D), floats(T, D), floats(T, D, spread=3)
HEADS = floats(T, 3, D)
GAIN, BIAS = floats(D), floats(D)
PAIRS = floats(T, 2, D)
WEIGHTS = floats(T, 2)
IDS = np.array([[3, 0], [1, 3], [0, 2], [2, 1], [3, 2]])
BIASES = floats(4, D)
NOTHING = np.zeros((T, D), np.float32)

# name -> kernel, arrays, other arguments, the array that is written, what it should be
CASES: dict[str, tuple[str, dict[str, np.ndarray], dict[str, int], str, Callable[..., Any]]] = {
    "rms_norm": (
        "rms_norm", {"x": X, "gain": GAIN, "epsilon": one(1e-2), "y": NOTHING},
        {"width": D, "per_row": 1}, "y", lambda x, gain, epsilon, y: normed(x, epsilon) * gain),
    "rms_norm of heads": (
        "rms_norm", {"x": HEADS, "gain": GAIN, "epsilon": one(1e-2), "y": np.zeros_like(HEADS)},
        {"width": D, "per_row": 3}, "y", lambda x, gain, epsilon, y: normed(x, epsilon) * gain),
    "layer_norm": (
        "layer_norm",
        {"x": X + 5, "gain": GAIN, "bias": BIAS, "epsilon": one(1e-2), "y": NOTHING},
        {"width": D}, "y",
        lambda x, gain, bias, epsilon, y:
            normed(x - x.mean(-1, keepdims=True), epsilon) * gain + bias),
    "add_bias": ("add_bias", {"y": X, "bias": BIAS}, {"width": D}, "y", lambda y, bias: y + bias),
    "scale_rows": (
        "scale_rows", {"x": X, "factor": one(0.3)}, {"width": D}, "x",
        lambda x, factor: x * factor),
    "add_rows": (
        "add_rows", {"x": X, "y": Y, "factor": one(-0.3)}, {"width": D}, "x",
        lambda x, y, factor: x + factor * y),
    "soft_cap": (
        "soft_cap", {"x": 40 * X, "cap": one(30)}, {"width": D}, "x",
        lambda x, cap: cap * np.tanh(x / cap)),
    "sigmoid_scale": (
        "sigmoid_scale", {"y": X, "gate": G[:, 0].copy()}, {"width": D}, "y",
        lambda y, gate: y * sigmoid(gate)[:, None]),
    "sigmoid_gate": (
        "sigmoid_gate", {"y": X, "gate": G}, {"width": D, "stride": D, "per_row": 1}, "y",
        lambda y, gate: y * sigmoid(gate)),
    "sigmoid_gate of heads": (
        "sigmoid_gate", {"y": HEADS, "gate": floats(T, 3, 50)},
        {"width": D, "stride": 50, "per_row": 3}, "y",
        lambda y, gate: y * sigmoid(gate[..., :D])),
    "silu_gate": (
        "silu_gate", {"y": X, "gate": floats(T, 50)}, {"width": D, "stride": 50}, "y",
        lambda y, gate: y * gate[:, :D] * sigmoid(gate[:, :D])),
    "mul_rows": (
        "mul_rows", {"y": X, "x": floats(T, 50)}, {"width": D, "y_stride": D, "x_stride": 50}, "y",
        lambda y, x: y * x[:, :D]),
    "group_norm": (
        "group_norm", {"x": HEADS, "gain": floats(3, D), "epsilon": one(1e-2)},
        {"width": D, "n_group": 3}, "x", lambda x, gain, epsilon: normed(x, epsilon) * gain),
    "l2_norm": (
        "l2_norm", {"x": floats(T, 3 * D + 2), "epsilon": one(1e-2)},
        {"width": D, "per_row": 3, "stride": 3 * D + 2}, "x", of_length_one),
    "silu_mul": (
        "silu_mul", {"gate": G, "up": X}, {"width": D}, "gate",
        lambda gate, up: gate * sigmoid(gate) * up),
    "gelu_mul": (
        "gelu_mul", {"gate": G, "up": X}, {"width": D}, "gate", lambda gate, up: gelu(gate) * up),
    "swiglu_oai": (
        "swiglu_oai", {"gate": 3 * G, "up": 5 * X}, {"width": D}, "gate", swiglu_oai),
    "relu2": (
        "relu2", {"gate": G}, {"width": D}, "gate", lambda gate: np.maximum(gate, 0) ** 2),
    "gelu": ("gelu", {"gate": G}, {"width": D}, "gate", lambda gate: gelu(gate)),
    "add_positions": (
        "add_positions", {"x": X, "table": floats(16, D)}, {"width": D, "n_positions": 16},
        "x", lambda x, table: x + table[7 : 7 + T]),
    "scale_by_position": (
        "scale_by_position", {"x": X, "scale": one(0.1)}, {"width": D, "length": 3, "offset": 1},
        "x", lambda x, scale:
            x * (1 + scale * np.log(np.floor((np.arange(7, 7 + T) + 1) / 3) + 1))[:, None]),
    "add_expert_bias": (
        "add_expert_bias", {"y": PAIRS, "biases": BIASES, "expert_ids": IDS},
        {"width": D, "n_expert": 4, "count": N_PAIRS}, "y",
        lambda y, biases, expert_ids: y + biases[expert_ids.astype(int)]),
    "scale_by_expert": (
        "scale_by_expert", {"y": PAIRS, "scales": BIASES[0, :4].copy(), "expert_ids": IDS},
        {"width": D, "n_expert": 4, "count": N_PAIRS}, "y",
        lambda y, scales, expert_ids: y * scales[expert_ids.astype(int)][..., None]),
    "copy_parts": (
        "copy_parts", {"x": X, "y": floats(T, 3, 5)},
        {"x_stride": D, "x_step": 16, "y_stride": 15, "y_step": 5, "width": 5, "per_row": 3},
        "y", lambda x, y: np.stack([x[:, :5], x[:, 16:21], x[:, 32:]], 1)),
    "scale_pairs": (
        "scale_pairs", {"x": X, "weights": WEIGHTS, "y": np.zeros_like(PAIRS)},
        {"width": D, "n_expert_used": 2}, "y",
        lambda x, weights, y: x[:, None] * weights[..., None]),
    "combine": (
        "combine", {"y": PAIRS, "weights": WEIGHTS, "x": X},
        {"width": D, "n_expert_used": 2, "is_added": 1, "is_weighted": 1}, "x",
        lambda y, weights, x: x + (y * weights[..., None]).sum(1)),
    "combine, written": (
        "combine", {"y": PAIRS, "weights": WEIGHTS, "x": X},
        {"width": D, "n_expert_used": 2, "is_added": 0, "is_weighted": 1}, "x",
        lambda y, weights, x: (y * weights[..., None]).sum(1)),
    "combine, plain": (
        "combine", {"y": PAIRS, "x": X},
        {"width": D, "n_expert_used": 2, "is_added": 0, "is_weighted": 0, "weights": 0}, "x",
        lambda y, x: y.sum(1)),
}  # fmt: skip


@pytest.fixture(scope="module")
def builder() -> KernelBuilder:
    """A builder for this CPU, all kernels compiled in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGUF_HUB_KERNEL_CACHE", str(KERNELS))
        builder = KernelBuilder()
    kernels = dict.fromkeys(kernel for kernel, *_ in CASES.values())
    builder.addresses(["run_program", "rotate", "top_k_gate", *kernels])
    return builder


def run_everywhere(builder: KernelBuilder, kernel: str, arrays: Any, **rest: int) -> Any:
    """Run a step as plain Python, compiled, and on three threads: the same bits each time."""
    plain = run_step(kernel, arrays, T, **rest)
    for n_threads in (1, 3):
        other = run_step(kernel, arrays, T, builder=builder, n_threads=n_threads, **rest)
        for name in arrays:
            np.testing.assert_array_equal(other[name], plain[name])
    return plain


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_steps_equal_float64(case: Any, builder: KernelBuilder) -> None:
    kernel, arrays, arguments, written, expected = case
    found = run_everywhere(builder, kernel, arrays, position=7, n_used=2, **arguments)
    wanted = expected(**{name: array.astype(float) for name, array in arrays.items()})
    # a few roundings of numbers no larger than these
    scale = max(np.abs(array).max() for array in arrays.values()) + np.abs(wanted).max()
    np.testing.assert_allclose(found[written], wanted, rtol=8 * ULP, atol=4 * ULP * scale)
    for name in set(arrays) - {written}:  # nothing else is written
        np.testing.assert_array_equal(found[name], arrays[name])


def test_norms_may_be_written_where_they_read(builder: KernelBuilder) -> None:
    arrays = {"x": HEADS, "gain": GAIN, "epsilon": one(1e-5)}
    apart = run_step("rms_norm", {**arrays, "y": np.zeros_like(HEADS)}, T, width=D, per_row=3)
    found = run_everywhere(builder, "rms_norm", arrays, width=D, per_row=3, y=0)
    np.testing.assert_array_equal(found["x"], apart["y"])
    arrays = {"x": X, "gain": GAIN, "bias": BIAS, "epsilon": one(1e-5)}
    apart = run_step("layer_norm", {**arrays, "y": NOTHING}, T, width=D)
    found = run_everywhere(builder, "layer_norm", arrays, width=D, y=0)
    np.testing.assert_array_equal(found["x"], apart["y"])


def test_a_mean_far_from_zero_cancels_in_double_precision() -> None:
    x = (1000 + floats(T, D, spread=0.01)).astype(np.float32)
    arrays = {"x": x, "gain": np.ones(D, np.float32), "bias": np.zeros(D, np.float32),
              "epsilon": one(0), "y": NOTHING}  # fmt: skip
    found = run_step("layer_norm", arrays, T, width=D)["y"]
    exact = x.astype(float)
    expected = normed(exact - exact.mean(-1, keepdims=True), 0)
    # the mean is rounded to float32: by 2**-15 where the spread is 0.01
    np.testing.assert_allclose(found, expected, atol=2**-14 / 0.005)


@pytest.mark.parametrize("is_neox", [0, 1], ids=["pairs", "neox"])
@pytest.mark.parametrize("n_rot", [0, 6, 10])
def test_heads_are_rotated_in_place(n_rot: int, is_neox: int, builder: KernelBuilder) -> None:
    x, half = floats(T, 3, 10), n_rot // 2
    angles = RNG.uniform(0, 7, (T, half))
    table = np.concatenate((np.cos(angles), np.sin(angles)), 1).astype(np.float32)
    found = run_everywhere(
        builder, "rotate", {"x": x, "table": table}, n_head=3, head_dim=10, n_rot=n_rot,
        is_neox=is_neox,
    )["x"]  # fmt: skip
    first = np.arange(half) if is_neox else np.arange(0, n_rot, 2)
    second = first + (half if is_neox else 1)
    turned = (x[..., first] + 1j * x[..., second]) * np.exp(1j * angles)[:, None]
    expected = x.copy()
    expected[..., first], expected[..., second] = turned.real, turned.imag
    np.testing.assert_allclose(found, expected, atol=8 * 4 * ULP)


# -- routing --------------------------------------------------------------------------------------


def routed(
    logits: np.ndarray, bias: np.ndarray, n_used: int, *, function: int, has_bias: int = 0,
    n_group: int = 1, n_group_used: int = 1, is_normalized: int = 0, scale: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return the experts of each token and their weights, as llama.cpp's build_moe_ffn has it."""
    exps = np.exp(logits - logits.max(-1, keepdims=True))
    values = {SOFTMAX: exps / exps.sum(-1, keepdims=True), SIGMOID: sigmoid(logits)}
    value = values.get(function, logits)
    choice = value + bias if has_bias else value
    if n_group > 1:
        groups = choice.reshape(len(logits), n_group, -1)
        best = np.sort(groups, -1)[..., -2:].sum(-1)
        keep = np.argsort(-best, -1, kind="stable")[:, :n_group_used]
        mask = np.zeros(best.shape, bool)
        np.put_along_axis(mask, keep, True, -1)
        choice = np.where(mask[..., None], groups, -np.inf).reshape(choice.shape)
    ids = np.argsort(-choice, -1, kind="stable")[:, :n_used]
    weights = np.take_along_axis(value, ids, -1)
    if function == SOFTMAX_OF_CHOSEN:
        weights = np.exp(weights - weights.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
    elif function == SIGMOID_OF_CHOSEN:
        weights = sigmoid(weights)
    if is_normalized:
        weights = weights / np.maximum(weights.sum(-1, keepdims=True), 6.103515625e-5)
    return ids, weights * scale


def gate_arrays(logits: np.ndarray, bias: np.ndarray, scale: float, n_used: int) -> Any:
    n_tokens, n_expert = logits.shape
    return {
        "logits": logits.astype(np.float32), "bias": bias.astype(np.float32), "scale": one(scale),
        "weights": np.zeros((n_tokens, n_used), np.float32),
        "expert_ids": np.zeros((n_tokens, n_used), np.int64),
        "expert_starts": np.zeros(n_expert + 1, np.int64),
        "assignments": np.zeros(n_tokens * n_used, np.int64),
    }  # fmt: skip


def gate(arrays: Any, n_used: int, run: Callable[..., Any], **route: int) -> Any:
    arguments = {"has_bias": 0, "n_group": 1, "n_group_used": 1, "is_normalized": 0, **route}
    return run(
        "top_k_gate", arrays, n_expert=arrays["logits"].shape[1], n_expert_used=n_used,
        n_used=n_used, **arguments,
    )  # fmt: skip


@pytest.mark.parametrize("n_used", [1, 3])
@pytest.mark.parametrize("route", ROUTES.values(), ids=list(ROUTES))
def test_experts_are_chosen_as_in_float64(route: Any, n_used: int, builder: KernelBuilder) -> None:
    logits, bias = floats(T, 24, spread=2), floats(24, spread=0.3)
    arrays = gate_arrays(logits, bias, route.get("scale", 1.0), n_used)
    flags = {name: value for name, value in route.items() if name != "scale"}
    found = gate(arrays, n_used, lambda *a, **k: run_everywhere(builder, *a, **k), **flags)
    ids, weights = routed(logits.astype(float), bias.astype(float), n_used, **route)
    np.testing.assert_array_equal(found["expert_ids"], ids)
    np.testing.assert_allclose(found["weights"], weights, rtol=16 * ULP)
    starts, pairs = found["expert_starts"], found["assignments"]
    for e in range(24):
        np.testing.assert_array_equal(
            pairs[starts[e] : starts[e + 1]], np.flatnonzero(ids.reshape(-1) == e)
        )


@pytest.mark.parametrize("route", ROUTES.values(), ids=list(ROUTES))
@pytest.mark.parametrize("value", [0.0, -np.inf, np.nan], ids=str)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_experts_of_a_token_differ_whatever_the_logits(
    route: Any, value: float, builder: KernelBuilder
) -> None:
    """Products have no room for a token that chooses an expert twice; of equals, the first."""
    arrays = gate_arrays(np.full((T, 24), value), np.zeros(24), 1.0, 3)
    flags = {name: value for name, value in route.items() if name != "scale"}

    def run(*a: Any, **k: Any) -> Any:
        return run_step(*a[:2], T, builder=builder, **k)

    ids = gate(arrays, 3, run, **flags)["expert_ids"]
    assert all(len(set(row)) == 3 and min(row) >= 0 and max(row) < 24 for row in ids.tolist())
    if value == 0:
        np.testing.assert_array_equal(ids, np.tile([0, 1, 2], (T, 1)))


def test_a_sum_of_next_to_nothing_is_not_divided_by() -> None:
    arrays = gate_arrays(np.full((T, 4), -30.0), np.zeros(4), 1.0, 2)
    found = gate(arrays, 2, lambda *a, **k: run_step(*a, T, **k), function=SIGMOID, is_normalized=1)
    np.testing.assert_allclose(found["weights"], np.exp(-30) / 6.103515625e-5, rtol=1e-5)


GAPS = {("l2_norm", "x"), ("mul_rows", "x"), ("sigmoid_gate", "gate"),
        ("silu_gate", "gate")}  # fmt: skip
"""Rows that lie apart: the last elements of the last one are not touched."""

# -- proofs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_no_row_may_leave_its_array(case: Any) -> None:
    """One element more of anything, or one less of an array: the proof fails."""
    kernel, arrays, arguments, *_ = case
    arguments = dict(arguments)
    if "count" in ARGUMENTS[kernel]:
        arguments.setdefault("count", 0)

    def prove(at: dict[str, int], blocks: Any, changed: dict[str, int]) -> None:
        prove_step(step(kernel, **at, **changed), blocks, T, 7, 2)

    at, blocks = lay_out(arrays)
    prove(at, blocks, arguments)
    for name in at:
        for wrong in (10**6, 2**62):
            with pytest.raises(ProgramError):
                prove({**at, name: wrong}, blocks, arguments)
        if (kernel, name) in GAPS or arrays[name].size == 1:  # a float may be a neighbour's
            continue
        with pytest.raises(ProgramError):
            prove({**at, name: at[name] - 1}, blocks, arguments)
        cut = {**arrays, name: arrays[name].reshape(-1)[:-1]}
        with pytest.raises(ProgramError):
            prove(*lay_out(cut), arguments)
    for name in {"width", "n_expert", "n_expert_used", "per_row"} & arguments.keys():
        with pytest.raises(ProgramError):
            prove(at, blocks, {**arguments, name: arguments[name] + 1})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"function": 4}, "no function 4"),
        ({"n_group": 5}, "24 experts in 5 groups"),
        ({"n_group": 0}, "1 of 0 groups"),
        ({"n_group": 2, "n_group_used": 3}, "3 of 2 groups"),
        ({"n_group": 12, "n_group_used": 1}, "3 of 2 experts"),
        ({"n_expert_used": 25}, "25 of 24 experts"),
        ({"bias": 10**6, "has_bias": 1}, "f\\[1000000:"),
        ({"scale": 10**6}, "f\\[1000000:"),
    ],
)
def test_routes_that_cannot_be_are_refused(change: dict[str, int], problem: str) -> None:
    at, blocks = lay_out(gate_arrays(np.zeros((T, 24)), np.zeros(24), 1.0, 3))
    arguments = {"n_expert": 24, "n_expert_used": 3, "count": 0, "function": 0, "has_bias": 0,
                 "n_group": 1, "n_group_used": 1, "is_normalized": 0, **at}  # fmt: skip
    prove_step(step("top_k_gate", **arguments), blocks, T, 0, 3)
    with pytest.raises(ProgramError, match=problem):
        prove_step(step("top_k_gate", **{**arguments, **change}), blocks, T, 0, 3)


def test_positions_are_not_divided_by_nothing() -> None:
    at, blocks = lay_out({"x": X, "scale": one(1)})
    with pytest.raises(ProgramError, match="positions are divided by 0"):
        prove_step(step("scale_by_position", **at, width=D, length=0, offset=1), blocks, T, 0, 1)


def test_ids_of_experts_are_read_where_as_many_experts_are() -> None:
    """Ids below 24 would leave a table of 4 biases."""
    arrays = gate_arrays(np.zeros((T, 24)), np.zeros(24), 1.0, 2)
    at, blocks = lay_out({**arrays, "y": PAIRS, "biases": BIASES})
    y, biases = at.pop("y"), at.pop("biases")
    route = {"function": 0, "has_bias": 0, "n_group": 1, "n_group_used": 1, "is_normalized": 0}
    choose = step("top_k_gate", n_expert=24, n_expert_used=2, count=0, **route, **at)
    add = step("add_expert_bias", y=y, biases=biases, width=D, n_expert=4, count=N_PAIRS,
               expert_ids=at["expert_ids"])  # fmt: skip
    with pytest.raises(ProgramError, match=r"used as expert ids of \d+ and as expert ids of \d+"):
        prove([choose, add], blocks, [np.zeros(8, np.uint8)], bounds_of(T, 0, 2))
