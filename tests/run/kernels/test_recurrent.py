"""Steps that carry a state from token to token: as numpy in float64, whatever the cut of a text."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from gguf_hub.errors import ProgramError
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.vm.ops import step
from tests.conftest import KERNELS
from tests.run.kernels.inputs import STATE_STEPS, StateStep, floats
from tests.run.kernels.running import lay_out, prove_step, run_step

T, SLOTS = 7, 3


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def convolved(
    x: np.ndarray, taps: np.ndarray, state: np.ndarray, *, bias: np.ndarray | None = None,
    is_silu: int, **_: Any,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    width = taps.shape[1]
    inputs = np.concatenate((state, x[:, :width]))
    n_past = len(taps) - 1
    y = sum(taps[j] * inputs[j : j + len(x)] for j in range(len(taps)))
    y = y if bias is None else y + bias
    return (y * sigmoid(y) if is_silu else y), inputs[len(inputs) - n_past :]


def scanned(
    x: np.ndarray, dt: np.ndarray, dt_bias: np.ndarray, a: np.ndarray, d: np.ndarray,
    state: np.ndarray, *, n_group: int, **_: Any,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    n_head, n_state, head_dim = state.shape
    inner, y = n_head * head_dim, np.empty((len(x), n_head, head_dim))
    for t in range(len(x)):
        heads = x[t, :inner].reshape(n_head, head_dim)
        groups = x[t, inner:].reshape(2, n_group, n_state)
        b, c = np.repeat(groups, n_head // n_group, axis=1)
        pace = np.logaddexp(0, dt[t, :n_head] + dt_bias)[:, None, None]
        state = state * np.exp(pace * a[:, None, None]) + pace * b[:, :, None] * heads[:, None]
        y[t] = np.einsum("hnp,hn->hp", state, c) + d[:, None] * heads
    return y.reshape(len(x), inner), state


def scanned_by_channel(
    x: np.ndarray, dt: np.ndarray, dt_bias: np.ndarray, b: np.ndarray, c: np.ndarray,
    a: np.ndarray, d: np.ndarray, state: np.ndarray, **_: Any,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    y = np.empty_like(x)
    for t in range(len(x)):
        pace = np.logaddexp(0, dt[t] + dt_bias)
        state = state * np.exp(pace * a) + (pace * x[t]) * b[t][:, None]
        y[t] = c[t] @ state + d * x[t]
    return y, state


def corrected(
    x: np.ndarray, beta: np.ndarray, alpha: np.ndarray, dt_bias: np.ndarray, a: np.ndarray,
    state: np.ndarray, *, n_head_k: int, group: int, group_stride: int, is_tiled: int, **_: Any,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    n_head, d, _ = state.shape
    heads, y = np.arange(n_head), np.empty((len(x), n_head, d))
    shared = heads % n_head_k if is_tiled else heads // (n_head // n_head_k)
    gates = heads // group * group_stride + heads % group
    for t in range(len(x)):
        parts = x[t].reshape(-1, d)
        q, k, v = parts[shared], parts[n_head_k + shared], parts[2 * n_head_k :]
        pace = np.logaddexp(0, alpha[t, gates] + dt_bias)
        state = state * np.exp(pace * a)[:, None, None]
        wrong = (v - np.einsum("hkv,hk->hv", state, k)) * sigmoid(beta[t, gates])[:, None]
        state = state + k[:, :, None] * wrong[:, None]
        y[t] = np.einsum("hkv,hk->hv", state, q) / np.sqrt(d)
    return y.reshape(len(x), -1), state


EXPECTED = {"causal_conv": convolved, "mamba2_scan": scanned,
            "mamba_scan": scanned_by_channel, "delta_scan": corrected}  # fmt: skip


def computed(
    case: StateStep, state: np.ndarray, start: int, end: int, **rest: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Compute some of ``T`` tokens; return what is computed and the states of all slots."""
    rows = {name: array[start:end].copy() for name, array in case.rows_of(T).items()}
    arrays = {**rows, **case.shared, "state": state,
              "y": np.full((end - start, case.width), 9, np.float32)}  # fmt: skip
    found = run_step(case.kernel, arrays, end - start, n_slots=SLOTS, state_stride=state.shape[1],
                     **case.numbers, **rest)  # fmt: skip
    for name in case.shared:
        np.testing.assert_array_equal(found[name], case.shared[name])
    return found["y"], found["state"]


@pytest.fixture(scope="module")
def builder() -> KernelBuilder:
    """A builder for this CPU, all kernels compiled in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGUF_HUB_KERNEL_CACHE", str(KERNELS))
        builder = KernelBuilder()
    builder.addresses(["run_program", *dict.fromkeys(case.kernel for case in STATE_STEPS.values())])
    return builder


@pytest.mark.slow
@pytest.mark.parametrize("position", [0, 5], ids=["from the start", "from a state"])
@pytest.mark.parametrize("case", STATE_STEPS.values(), ids=list(STATE_STEPS))
def test_states_are_carried_on_as_in_float64(
    case: StateStep, position: int, builder: KernelBuilder
) -> None:
    states = floats(SLOTS, case.state_size)  # at the start it is zero, whatever lies there
    y, after = computed(case, states, 0, T, position=position, slot=1)
    exact = {name: a.astype(float) for name, a in {**case.rows_of(T), **case.shared}.items()}
    begin = states[1].astype(float).reshape(case.state) * (position > 0)
    expected, state = EXPECTED[case.kernel](**exact, state=begin, **case.numbers)
    scale = max(np.abs(expected).max(), np.abs(state).max())
    np.testing.assert_allclose(y, expected, atol=2e-6 * scale)
    np.testing.assert_allclose(after[1].reshape(case.state), state, atol=2e-6 * scale)
    np.testing.assert_array_equal(after[[0, 2]], states[[0, 2]])
    for n_threads in (1, 3):
        other, left = computed(case, states, 0, T, position=position, slot=1, builder=builder,
                               n_threads=n_threads)  # fmt: skip
        np.testing.assert_array_equal(other, y)
        np.testing.assert_array_equal(left, after)


@pytest.mark.parametrize("cuts", [range(T + 1), (0, 2, 3, T)], ids=["tokens", "batches"])
@pytest.mark.parametrize("case", STATE_STEPS.values(), ids=list(STATE_STEPS))
def test_bits_do_not_depend_on_the_cut(case: StateStep, cuts: Any, builder: KernelBuilder) -> None:
    states = floats(SLOTS, case.state_size)
    whole = computed(case, states, 0, T, slot=2, builder=builder)
    parts = []
    for start, end in pairwise(cuts):
        y, states = computed(case, states, start, end, position=start, slot=2, builder=builder)
        parts.append(y)
    np.testing.assert_array_equal(np.concatenate(parts), whole[0])
    np.testing.assert_array_equal(states, whole[1])


@pytest.mark.parametrize("case", STATE_STEPS.values(), ids=list(STATE_STEPS))
def test_no_state_may_leave_its_memory(case: StateStep) -> None:
    arrays = {**case.rows_of(T), **case.shared, "state": floats(1, case.state_size),
              "y": floats(T, case.width)}  # fmt: skip
    at, blocks = lay_out(arrays)
    numbers = {**case.numbers, "state_stride": case.state_size}

    def prove(at: Any, blocks: Any, changed: Mapping[str, int]) -> None:
        prove_step(step(case.kernel, **at, **changed), blocks, T, 0, 1)

    prove(at, blocks, numbers)
    for name in at:
        for wrong in (at[name] - 1, 10**6, 2**62):
            with pytest.raises(ProgramError):
                prove({**at, name: wrong}, blocks, numbers)
        cut = {**arrays, name: arrays[name].reshape(-1)[:-1]}
        if name not in ("beta", "alpha", "dt", "x"):  # of their rows the ends may be unused
            with pytest.raises(ProgramError):
                prove(*lay_out(cut), numbers)
    free = {"is_silu", "has_bias", "bias", "is_tiled", "state_stride"}
    if numbers.get("group") == numbers.get("n_head"):
        free.add("group_stride")  # there is one group
    for name in numbers.keys() - free:
        with pytest.raises(ProgramError):
            prove(at, blocks, {**numbers, name: numbers[name] * 2 + 1})
