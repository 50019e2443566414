"""Steps that carry a state from token to token: as numpy in float64, whatever the cut of a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from gguf_hub.errors import ProgramError
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.kernels.vm.ops import step
from tests.conftest import KERNELS
from tests.run.kernels.running import lay_out, prove_step, run_step

T, SLOTS = 7, 3
RNG = np.random.default_rng(12)


def floats(*shape: int, spread: float = 1.0) -> np.ndarray:
    return (spread * RNG.standard_normal(shape)).astype(np.float32)


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


@dataclass(frozen=True)
class Case:
    """A step: its rows, one a token; what all tokens share; a state's shape; what it computes."""

    kernel: str
    rows: Mapping[str, np.ndarray]
    shared: Mapping[str, np.ndarray]
    state: tuple[int, ...]
    width: int
    numbers: Mapping[str, int]
    expected: Callable[..., tuple[np.ndarray, np.ndarray]]

    @property
    def state_size(self) -> int:
        return int(np.prod(self.state))

    def run(
        self, state: np.ndarray, start: int, end: int, run: Any = run_step, **rest: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute some tokens; return what is computed and the states of all slots."""
        rows = {name: array[start:end].copy() for name, array in self.rows.items()}
        arrays = {**rows, **self.shared, "state": state,
                  "y": np.full((end - start, self.width), 9, np.float32)}  # fmt: skip
        found = run(self.kernel, arrays, end - start, n_slots=SLOTS, state_stride=state.shape[1],
                    **self.numbers, **rest)  # fmt: skip
        for name in self.shared:
            np.testing.assert_array_equal(found[name], self.shared[name])
        return found["y"], found["state"]


def delta(kernel_heads: int, heads: int, d: int, gates: Any, is_tiled: int) -> Case:
    group, group_stride, stride = gates
    rows = {"x": floats(T, (2 * kernel_heads + heads) * d, spread=d**-0.5)}
    rows |= {name: floats(T, stride) for name in ("beta", "alpha")}
    shared = {"dt_bias": floats(heads), "a": -np.exp(floats(heads))}
    numbers = {"stride": stride, "group": group, "group_stride": group_stride,
               "n_head_k": kernel_heads, "n_head": heads, "head_dim": d,
               "is_tiled": is_tiled}  # fmt: skip
    return Case("delta_scan", rows, shared, (heads, d, d), heads * d, numbers, corrected)


def mamba(heads: int, groups: int, head_dim: int, n_state: int) -> Case:
    rows = {"x": floats(T, heads * head_dim + 2 * groups * n_state), "dt": floats(T, heads + 3)}
    shared = {"dt_bias": floats(heads), "a": -np.exp(floats(heads)), "d": floats(heads)}
    numbers = {"dt_stride": heads + 3, "n_head": heads, "n_group": groups, "head_dim": head_dim,
               "n_state": n_state}  # fmt: skip
    state = (heads, n_state, head_dim)
    return Case("mamba2_scan", rows, shared, state, heads * head_dim, numbers, scanned)


def convolution(width: int, stride: int, taps: int, *, is_silu: int, has_bias: int) -> Case:
    shared = {"taps": floats(taps, width)} | ({"bias": floats(width)} if has_bias else {})
    numbers = {"stride": stride, "n_taps": taps, "has_bias": has_bias, "is_silu": is_silu,
               "width": width} | ({} if has_bias else {"bias": 0})  # fmt: skip
    state = (taps - 1, width)
    rows = {"x": floats(T, stride)}
    return Case("causal_conv", rows, shared, state, width, numbers, convolved)


CASES = {
    "short convolution": convolution(37, 3 * 37, 3, is_silu=0, has_bias=0),
    "convolution": convolution(37, 37, 4, is_silu=1, has_bias=1),
    "a convolution longer than the text": convolution(5, 6, 11, is_silu=1, has_bias=0),
    "mamba2": mamba(6, 2, 5, 9),
    "mamba2, vectors": mamba(4, 1, 64, 16),
    "delta net, in blocks": delta(2, 4, 10, (2, 4, 8), 0),
    "delta net, tiled": delta(2, 6, 10, (6, 6, 6), 1),
    "delta net, columns": delta(1, 2, 70, (2, 2, 3), 1),
}


@pytest.fixture(scope="module")
def builder() -> KernelBuilder:
    """A builder for this CPU, all kernels compiled in one go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGUF_HUB_KERNEL_CACHE", str(KERNELS))
        builder = KernelBuilder()
    builder.addresses(["run_program", *dict.fromkeys(case.kernel for case in CASES.values())])
    return builder


@pytest.mark.parametrize("position", [0, 5], ids=["from the start", "from a state"])
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_states_are_carried_on_as_in_float64(
    case: Case, position: int, builder: KernelBuilder
) -> None:
    states = floats(SLOTS, case.state_size)  # at the start it is zero, whatever lies there
    y, after = case.run(states, 0, T, position=position, slot=1)
    exact = {name: a.astype(float) for name, a in {**case.rows, **case.shared}.items()}
    begin = states[1].astype(float).reshape(case.state) * (position > 0)
    expected, state = case.expected(**exact, state=begin, **case.numbers)
    scale = max(np.abs(expected).max(), np.abs(state).max())
    np.testing.assert_allclose(y, expected, atol=2e-6 * scale)
    np.testing.assert_allclose(after[1].reshape(case.state), state, atol=2e-6 * scale)
    np.testing.assert_array_equal(after[[0, 2]], states[[0, 2]])
    for n_threads in (1, 3):
        other, left = case.run(states, 0, T, position=position, slot=1, builder=builder,
                               n_threads=n_threads)  # type: ignore[arg-type] # fmt: skip
        np.testing.assert_array_equal(other, y)
        np.testing.assert_array_equal(left, after)


@pytest.mark.parametrize("cuts", [range(T + 1), (0, 2, 3, T)], ids=["tokens", "batches"])
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_bits_do_not_depend_on_the_cut(case: Case, cuts: Any, builder: KernelBuilder) -> None:
    states = floats(SLOTS, case.state_size)
    whole = case.run(states, 0, T, slot=2, builder=builder)  # type: ignore[arg-type]
    parts = []
    for start, end in pairwise(cuts):
        y, states = case.run(states, start, end, position=start, slot=2, builder=builder)  # type: ignore[arg-type] # fmt: skip
        parts.append(y)
    np.testing.assert_array_equal(np.concatenate(parts), whole[0])
    np.testing.assert_array_equal(states, whole[1])


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_no_state_may_leave_its_memory(case: Case) -> None:
    arrays = {**case.rows, **case.shared, "state": floats(1, case.state_size),
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
