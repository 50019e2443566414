"""The steps of layers that carry a state from token to token in place of attention.

Each writes a token's result where attention would write it, and is projected as that is.
"""

from __future__ import annotations

from collections.abc import Mapping

from gguf_hub.gguf.memory.layout import Activations, LayerOffsets
from gguf_hub.gguf.memory.states import StateSizes, state_stride
from gguf_hub.run.kernels.vm.ops import N_TOKENS
from gguf_hub.run.model.made_vectors import ONES
from gguf_hub.run.model.steps import StepWriter
from gguf_hub.run.model.weights import Layer


class StateWriter(StepWriter):
    """Writes short convolutions, both versions of Mamba, and gated delta nets."""

    def _carry_on(
        self, layer: Layer, own: LayerOffsets, vectors: Mapping[str, int],
        source: Activations | None,
    ) -> Activations:  # fmt: skip
        """Carry the states on by the tokens of the call; return what was read.

        That is what attention has read, if there is attention, too.
        """
        source = source or self._normed(vectors, "attn_norm.weight", self._at.residual, N_TOKENS)
        sizes = layer.graph.state
        assert sizes is not None
        write = {"short_conv": self._short_conv, "mamba": self._mamba, "mamba2": self._mamba2,
                 "delta_net": self._delta_net}[sizes.kind]  # fmt: skip
        write(layer, own, vectors, source, sizes)
        return source

    def _project_from(self, layer: Layer, source: Activations, places: Mapping[str, int]) -> None:
        """Multiply what the layer reads with matrices: name -> where the product goes."""
        matrices = {layer.matrices[name]: y for name, y in places.items()}
        self._quantize(source, list(matrices), N_TOKENS)
        for matrix, y in matrices.items():
            self._matmul(matrix, source, y, is_last=matrix is list(matrices)[-1])

    def _convolve(
        self, own: LayerOffsets, vectors: Mapping[str, int], sizes: StateSizes, name: str,
        *, x: int, y: int,
    ) -> None:  # fmt: skip
        """Convolve channels that lie first in rows of ``x``."""
        bias = vectors.get(f"{name}.bias")
        self._add(
            "causal_conv", x=x, stride=sizes.n_in, taps=vectors[f"{name}.weight"],
            n_taps=sizes.n_taps, bias=bias or 0, has_bias=bias is not None,
            is_silu=sizes.n_head > 0, state=own.conv_state,
            state_stride=state_stride(sizes.conv_elements), width=sizes.n_channels, y=y,
        )  # fmt: skip

    def _short_conv(
        self, layer: Layer, own: LayerOffsets, vectors: Mapping[str, int], source: Activations,
        sizes: StateSizes,
    ) -> None:  # fmt: skip
        """Convolve b * x, then multiply with c."""
        at, d = self._at, sizes.n_inner
        b, c, x = (at.state_in + i * d for i in range(3))  # of each row
        self._project_from(layer, source, {"shortconv.in_proj": at.state_in})
        self._add("mul_rows", y=b, y_stride=3 * d, x=x, x_stride=3 * d, width=d, count=N_TOKENS)
        self._convolve(own, vectors, sizes, "shortconv.conv", x=b, y=at.attn_out.x)
        self._add("mul_rows", y=at.attn_out.x, y_stride=d, x=c, x_stride=3 * d, width=d,
                  count=N_TOKENS)  # fmt: skip

    def _mamba(
        self, layer: Layer, own: LayerOffsets, vectors: Mapping[str, int], source: Activations,
        sizes: StateSizes,
    ) -> None:  # fmt: skip
        at, inner, y, m = self._at, sizes.n_inner, self._at.attn_out.x, layer.matrices
        x, z = at.state_in, at.state_in + inner  # of each row
        self._project_from(layer, source, {"ssm_in": x})
        self._convolve(own, vectors, sizes, "ssm_conv1d", x=x, y=at.scan_in.x)
        self._quantize(at.scan_in, [m["ssm_x"]], N_TOKENS)
        self._matmul(m["ssm_x"], at.scan_in, at.scan_mixed, is_last=True)
        first, n_mixed = at.scan_mixed, sizes.n_rank + 2 * sizes.n_state
        parts = {"dt": (at.scan_rank.x, sizes.n_rank), "b": (at.scan_b, sizes.n_state),
                 "c": (at.scan_c, sizes.n_state)}  # fmt: skip
        for part, (to, width) in parts.items():
            self._add("copy_parts", x=first, x_stride=n_mixed, x_step=0, y=to, y_stride=width,
                      y_step=0, width=width, per_row=1, count=N_TOKENS)  # fmt: skip
            name = ONES if self._config.norms_rates else f"ssm_{part}_norm.weight"
            if name in vectors:
                self._norm(vectors, name, to, to, width, N_TOKENS)
            first += width
        self._quantize(at.scan_rank, [m["ssm_dt"]], N_TOKENS)
        self._matmul(m["ssm_dt"], at.scan_rank, at.scan_rates, is_last=True)
        self._add(
            "mamba_scan", x=at.scan_in.x, dt=at.scan_rates, dt_bias=vectors["ssm_dt.bias"],
            b=at.scan_b, c=at.scan_c, a=vectors["ssm_a"], d=vectors["ssm_d"],
            state=own.scan_state, state_stride=state_stride(sizes.scan_elements), width=inner,
            n_state=sizes.n_state, y=y,
        )  # fmt: skip
        self._add("silu_gate", y=y, gate=z, stride=sizes.n_in, width=inner, count=N_TOKENS)

    def _mamba2(
        self, layer: Layer, own: LayerOffsets, vectors: Mapping[str, int], source: Activations,
        sizes: StateSizes,
    ) -> None:  # fmt: skip
        at, inner, y = self._at, sizes.n_inner, self._at.attn_out.x
        z, xbc = at.state_in, at.state_in + inner  # of each row; then the heads' rates
        self._project_from(layer, source, {"ssm_in": z})
        self._convolve(own, vectors, sizes, "ssm_conv1d", x=xbc, y=at.convolved)
        self._add(
            "mamba2_scan", x=at.convolved, dt=xbc + sizes.n_channels, dt_stride=sizes.n_in,
            dt_bias=vectors["ssm_dt.bias"], a=vectors["ssm_a"], d=vectors["ssm_d"],
            state=own.scan_state, state_stride=state_stride(sizes.scan_elements),
            n_head=sizes.n_head, n_group=sizes.n_group, head_dim=sizes.head_dim,
            n_state=sizes.n_state, y=y,
        )  # fmt: skip
        self._add("silu_gate", y=y, gate=z, stride=sizes.n_in, width=inner, count=N_TOKENS)
        if "ssm_norm.weight" not in vectors:
            return
        self._add(
            "group_norm", x=y, gain=vectors["ssm_norm.weight"], width=inner // sizes.n_group,
            n_group=sizes.n_group, epsilon=self._scalar(self._config.epsilon), count=N_TOKENS,
        )  # fmt: skip

    def _delta_net(
        self, layer: Layer, own: LayerOffsets, vectors: Mapping[str, int], source: Activations,
        sizes: StateSizes,
    ) -> None:  # fmt: skip
        at, y, epsilon = self._at, self._at.attn_out.x, self._scalar(self._config.epsilon)
        states, n_head = self._config.arch.states, sizes.n_head
        assert states is not None
        alpha = at.state_rates + self._limits.n_batch * n_head
        rates = {"ssm_beta": at.state_rates, "ssm_alpha": alpha}
        stride = group = n_head
        if states.has_joint_rates:  # for each head of keys the betas, then the alphas of its heads
            stride, group = 2 * n_head, n_head // sizes.n_group
            rates, alpha = {"ssm_ba": at.state_rates}, at.state_rates + group
        places = {"attn_qkv": at.state_in, "attn_gate": at.state_gate, **rates}
        self._project_from(layer, source, places)
        self._convolve(own, vectors, sizes, "ssm_conv1d", x=at.state_in, y=at.convolved)
        self._add("l2_norm", x=at.convolved, stride=sizes.n_channels, width=sizes.n_state,
                  per_row=2 * sizes.n_group, epsilon=epsilon, count=N_TOKENS)  # fmt: skip
        self._add(
            "delta_scan", x=at.convolved, beta=at.state_rates, alpha=alpha, stride=stride,
            group=group, group_stride=2 * group, dt_bias=vectors["ssm_dt.bias"],
            a=vectors["ssm_a"], state=own.scan_state,
            state_stride=state_stride(sizes.scan_elements), n_head_k=sizes.n_group,
            n_head=n_head, head_dim=sizes.head_dim, is_tiled=states.is_tiled, y=y,
        )  # fmt: skip
        self._norm(vectors, "ssm_norm.weight", y, y, sizes.head_dim, N_TOKENS, per_row=n_head)
        self._add("silu_gate", y=y, gate=at.state_gate, stride=sizes.n_inner, width=sizes.n_inner,
                  count=N_TOKENS)  # fmt: skip
