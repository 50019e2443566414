"""Layers that carry a state in place of attention: their sizes, their tensors.

Shape letters: D n_embd, C channels of the convolution, I n_inner, H heads, G groups, S n_state.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from functools import cached_property

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.arch.architecture import Architecture, H
from gguf_hub.gguf.memory.states import StateSizes

Shape = tuple[int, ...]

CONV_KERNELS = ("ssm_conv1d.weight", "shortconv.conv.weight")
"""Vectors that files have as [channels][taps]."""


def state_sizes(arch: Architecture, h: H) -> StateSizes | None:
    """Return the sizes of an architecture's states; None for one without.

    Raises:
        UnsupportedGgufError: Keys that cannot go together.
    """
    if arch.states is None:
        return None
    if arch.states.kind == "short_conv":
        _require(h, H.n_shortconv_l_cache.name, h.n_shortconv_l_cache > 0, "1 or more")
        return StateSizes("short_conv", h.n_shortconv_l_cache, h.n_embd, h.n_embd)
    if arch.states.kind == "mamba":
        return _mamba_sizes(h)
    n_head, n_group, inner, n_state = h.ssm_dt_rank, h.ssm_n_group, h.ssm_d_inner, h.ssm_d_state
    _require(h, H.ssm_d_conv.name, h.ssm_d_conv > 0, "1 or more")
    _require(h, H.ssm_dt_rank.name, n_head > 0, "1 or more")
    _require(h, H.ssm_n_group.name, n_group > 0 and n_head % n_group == 0,
             f"a divisor of {n_head} heads")  # fmt: skip
    _require(h, H.ssm_d_state.name, n_state > 0, "1 or more")
    head_dim, expected = inner // n_head, f"a multiple of {n_head} heads"
    if arch.states.kind == "delta_net":
        head_dim, expected = n_state, f"{n_head} heads of {n_state}"
    is_right = inner > 0 and inner == head_dim * n_head and inner % n_group == 0
    _require(h, H.ssm_d_inner.name, is_right, expected)
    return StateSizes(
        arch.states.kind, h.ssm_d_conv, inner + 2 * n_group * n_state, inner, n_head, n_group,
        head_dim, n_state,
    )  # fmt: skip


def _mamba_sizes(h: H) -> StateSizes:
    for hparam in (H.ssm_d_conv, H.ssm_d_inner, H.ssm_d_state, H.ssm_dt_rank):
        _require(h, hparam.name, h.get(hparam) > 0, "1 or more")
    inner = h.ssm_d_inner
    return StateSizes("mamba", h.ssm_d_conv, inner, inner, inner, 1, 1, h.ssm_d_state,
                      h.ssm_dt_rank)  # fmt: skip


def _require(h: H, name: str, condition: bool, expected: str) -> None:
    if not condition:
        raise UnsupportedGgufError(
            f"metadata `{h.architecture}.{name}`: expected {expected}",
            hint="`gguf-hub verify` checks the file",
        )


class StateLayers:
    """The layers of a model that carry a state.

    Args:
        arch: The architecture.
        hparams: Its keys.
        n_layer: Layers that are computed.
    """

    def __init__(self, arch: Architecture, hparams: H, n_layer: int) -> None:
        self._arch, self._hparams, self._n_layer = arch, hparams, n_layer

    def of_layer(self, i: int, n_head_kv: int, n_ff: int) -> StateSizes | None:
        """Return the state that layer ``i`` has in place of attention; None for none."""
        states, h = self._arch.states, self._hparams
        if states is None:
            return None
        if states.is_beside_attention:
            return self._sizes
        if not states.period:
            has_state = not n_head_kv and not (self._arch.is_one_part and n_ff)
        elif h.has(H.is_recurrent):
            has_state = i < self._n_layer and self._flags[i]
        else:
            period = h.get(H.full_attention_interval, states.period)
            has_state = not period or (i + 1) % period != 0
        return self._sizes if has_state else None

    def tensors(self, b: str, there: Container[str]) -> Iterator[tuple[str, Shape, bool]]:
        """Yield the tensors of a layer with a state, without ``b``, and whether it is a vector."""
        sizes = self._sizes
        assert sizes is not None
        for name, shape in _matrices(self._arch, self._hparams.n_embd, sizes):
            yield name, shape, False
        optional = {"ssm_conv1d.bias"}
        if self._arch.states and self._arch.states.is_beside_attention:
            optional.add("ssm_norm.weight")
        for name, shape in _vectors(self._arch, sizes).items():
            if name not in optional or f"{b}{name}" in there:
                yield name, shape, True

    @cached_property
    def _sizes(self) -> StateSizes | None:
        return state_sizes(self._arch, self._hparams)

    @cached_property
    def _flags(self) -> list[bool]:
        """Which layers have a state, where a key tells."""
        return [flag > 0 for flag in self._hparams.per_layer(H.is_recurrent, self._n_layer)]


def _matrices(arch: Architecture, d: int, s: StateSizes) -> Iterator[tuple[str, Shape]]:
    """Yield the matrices of a layer with a state, without ``blk.N.``."""
    if s.kind == "short_conv":
        yield "shortconv.in_proj.weight", (d, s.n_in)
        yield "shortconv.out_proj.weight", (s.n_inner, d)
        return
    if s.kind in ("mamba", "mamba2"):
        yield "ssm_in.weight", (d, s.n_in)
    if s.kind == "mamba":
        yield "ssm_x.weight", (s.n_inner, s.n_rank + 2 * s.n_state)
        yield "ssm_dt.weight", (s.n_rank, s.n_inner)
    if s.kind == "delta_net":
        yield "attn_qkv.weight", (d, s.n_in)
        yield "attn_gate.weight", (d, s.n_inner)
        if arch.states and arch.states.has_joint_rates:
            yield "ssm_ba.weight", (d, 2 * s.n_head)
        else:
            yield "ssm_beta.weight", (d, s.n_head)
            yield "ssm_alpha.weight", (d, s.n_head)
    yield "ssm_out.weight", (s.n_inner, d)


def _vectors(arch: Architecture, s: StateSizes) -> dict[str, Shape]:
    """Return the vectors that a layer with a state may have, without ``blk.N.``."""
    kernel = (s.n_taps, s.n_channels)
    if s.kind == "short_conv":
        return {"shortconv.conv.weight": kernel}
    shared = {"ssm_conv1d.weight": kernel, "ssm_dt.bias": (s.n_head,)}
    if s.kind == "delta_net":
        return {**shared, "ssm_a": (s.n_head,), "ssm_norm.weight": (s.head_dim,)}
    if s.kind == "mamba":
        norms: dict[str, Shape] = {"ssm_dt_norm.weight": (s.n_rank,)}
        norms |= dict.fromkeys(("ssm_b_norm.weight", "ssm_c_norm.weight"), (s.n_state,))
        return {
            **shared, "ssm_conv1d.bias": (s.n_channels,), "ssm_a": (s.n_state, s.n_inner),
            "ssm_d": (s.n_inner,), **(norms if arch.states and arch.states.has_rate_norms else {}),
        }  # fmt: skip
    return {
        **shared, "ssm_conv1d.bias": (s.n_channels,), "ssm_a": (1, s.n_head),
        "ssm_d": (1, s.n_head), "ssm_norm.weight": (s.n_inner // s.n_group, s.n_group),
    }  # fmt: skip
