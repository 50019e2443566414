"""What the name of an architecture tells of its graph, beyond the keys and tensors of a file.

Everything that a file says itself (sizes, biases, factors, which layers have experts) is read from
it in ``graph``. Source of the records: src/models/ of llama.cpp, as bundled with llama-cpp-python
0.3.36.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from gguf_hub.gguf.hparams import GraphHyperParameters
from gguf_hub.gguf.memory.states import StateKind

H = GraphHyperParameters

Activation = Literal[
    "silu", "gelu", "relu", "swiglu_oai", "relu2", "plain_gelu", "xielu"
]  # fmt: skip
"""SwiGLU, GeGLU with the tanh form, ReGLU, gpt-oss' clamped SwiGLU; and without a gate squared
ReLU, GELU with the tanh form, xIELU."""

BIASES = ("attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias", "ffn_gate.bias",
          "ffn_up.bias", "ffn_down.bias")  # fmt: skip
"""What any model may have."""
HEAD_NORMS = ("attn_q_norm.weight", "attn_k_norm.weight")
NORMS = ("attn_norm.weight", "ffn_norm.weight")
"""What stands before attention and before the feed-forward network."""


@dataclass(frozen=True)
class Windows:
    """Layers that attend to a window of positions: all but every ``period``-th.

    A file may say otherwise: with an array of flags, or with another period.

    Attributes:
        period: Every so many layers one attends to the whole context; 0 for none.
        default: Positions where the file names no number.
        fixed: Positions whatever number it names, unless that is 0.
        is_chunked: A window begins at a multiple of its length instead of moving along.
        is_plain: Rotations there are not scaled to longer contexts.
        freq_base: Base of the frequencies there, where the file names none; None for that of the
            other layers.
        only_of: The one number of layers whose models have windows; None for any.
        is_full_first: The first of ``period`` layers attends to all, not the last.
        is_symmetric: Half of the window lies before a position, half behind it.
        has_own_heads: Heads there have a length of their own, ``rope.dimension_count_swa`` of it
            is rotated, and ``rope_freqs`` does not count.
    """

    period: int
    default: int = 0
    fixed: int = 0
    is_chunked: bool = False
    is_plain: bool = False
    freq_base: float | None = None
    only_of: int | None = None
    is_full_first: bool = False
    is_symmetric: bool = False
    has_own_heads: bool = False

    def has_window(self, i: int, period: int) -> bool:
        """Tell whether layer ``i`` has a window, given the period that counts."""
        return not period or i % period != (0 if self.is_full_first else period - 1)


@dataclass(frozen=True)
class Router:
    """How experts are chosen and weighted where no key tells.

    Attributes:
        function: What makes weights of logits: ``softmax`` over all, ``sigmoid``, or ``chosen``:
            softmax over those of the chosen experts alone.
        is_normalized: Whether weights are divided by their sum.
        is_first: Whether an expert's input is weighted instead of its output.
    """

    function: Literal["softmax", "sigmoid", "chosen"] = "softmax"
    is_normalized: bool = False
    is_first: bool = False


@dataclass(frozen=True)
class States:
    """Layers that carry a state from token to token in place of attention.

    Attributes:
        kind: What they compute.
        period: Every so many layers one attends, where no key tells; 0 where those attend that
            have heads of keys and values.
        is_tiled: Head h of a delta net reads keys h % n, not those of its block of heads.
        is_beside_attention: Every layer has a state and attends, and adds both.
        has_rate_norms: What a Mamba's scan is steered by is normed.
        has_joint_rates: One matrix has a delta net's two rates, for each head of keys by itself.
    """

    kind: StateKind
    period: int = 0
    is_tiled: bool = False
    is_beside_attention: bool = False
    has_rate_norms: bool = False
    has_joint_rates: bool = False


@dataclass(frozen=True)
class Temperature:
    """Queries at far positions are multiplied by 1 + scale ln(1 + floor((p + offset) / length)).

    Attributes:
        scale: Where no key tells.
        length: Positions; None for the context that the model was trained on.
        offset: Added to the position.
    """

    scale: float = 0.0
    length: int | None = None
    offset: int = 0


@dataclass(frozen=True)
class Architecture:
    """Layers of attention and feed-forward networks; by default Llama's, rotated as GPT-NeoX's.

    Attributes:
        name: ``general.architecture``.
        rope: Which elements of a head are a pair: ``norm`` for neighbours, ``neox`` for those that
            are half of the rotated ones apart; None where nothing is rotated.
        is_encoder: A token sees all of its text, and there is no head: what is computed of a text
            are vectors of its tokens.
        has_positions: A vector that was learned for each position is added to the embeddings.
        has_embedding_norm: They are normed then, before the first layer.
        is_post_normed: Norms stand behind what is added to the residual stream, not before it is
            read: ``attn_output_norm`` and ``layer_output_norm``.
        is_first_unnormed: The first layer may lack ``attn_norm``, which others have.
        states: Layers that carry a state; None where all attend.
        has_query_gates: ``attn_q`` holds a gate behind each head's queries; results of attention
            are multiplied with its sigmoid.
        has_result_gates: ``attn_gate`` makes gates of what a layer reads; results of attention are
            multiplied with their sigmoids.
        has_head_gates: So they may be with one gate for each head.
        has_value_lengths: Heads of values have a length of their own.
        rotates_half: Where no window is, half as much of a head is rotated as a key says.
        is_one_part: A layer is attention, a state or a feed-forward network, not two of these.
        may_lack_parts: A layer may have no attention, or a matrix in its place where it has heads
            of queries alone, or no feed-forward network.
        output_norm: What stands before the head; empty for nothing.
        has_head_bias: The head has a bias.
        ffn_norm: What stands before the feed-forward network.
        rope_skip: Every so many layers one has no rotation; 0 for none.
        halves_with_sections: The halves of a head are rotated instead of neighbours where the file
            has sections of positions, as of models that see.
        rope_windows_only: Layers without a window have no rotation, if others have windows.
        rope_dense_lead: Nor have they then, but for the dense layers before those with experts.
        needs: Vectors of a layer that must be there, after ``blk.N.``.
        may_have: Vectors that may be there, beside ``BIASES``.
        has_fused_gate: ``ffn_up`` holds the gate's rows before its own.
        n_ff_divisor: ``feed_forward_length`` is so many times a network's width.
        may_fuse_gate: It does where there is no ``ffn_gate``.
        has_whole_norms: The norms of q and k are over all heads at once, not over each.
        has_own_norms: They have weights of their own for each head; of layer norms alone.
        has_norms_after_rope: They come after the rotation.
        has_plain_norms: Rotated heads of q and k are normed without weights.
        n_expert_unnormed: But not where there are so many experts.
        has_value_norms: Heads of v are normed without weights.
        may_share_values: v may be what k was before its norm.
        has_latents: Keys and values are made of one latent vector that all heads share (multi-head
            latent attention, arXiv 2405.04434, section 2.1); so may queries be, of another.
        yarn_scales_scores: Where there is a log multiplier, YaRN's factor is one on scores alone,
            not on cosine and sine.
        has_altup: The residual stream is one of several, of which a layer computes one and corrects
            the others (alternating updates, arXiv 2301.13310); what attention adds has a low-rank
            part beside it (arXiv 2411.07501).
        has_experts_by_tensors: A layer has experts where it has a router's tensor; no key tells.
        n_layer_sparse: So many first layers let a twentieth of the gates pass.
        has_dense_beside: Layers with experts have a dense network, too, each with norms of its own
            before and after, and the router has one.
        has_layer_norm: The norms are layer norms, not RMS norms.
        has_weightless_norms: They have no weights, but are there.
        has_rms_norm_by_key: But RMS norms where a file has the epsilon of those.
        post_attention_norm_is_before_ffn: ``post_attention_norm`` is the norm before the
            feed-forward network, not one after attention.
        is_parallel: The feed-forward network reads what attention reads, or another norm of it,
            unless a key or a norm before the network tells otherwise (``Graph.is_parallel``).
        routes_before_attention: The router reads the residual stream before attention adds to it,
            without a norm.
        averages_shared: Experts and a shared expert are added with a factor of 1/2.
        activation: Of the feed-forward network.
        scales_embeddings: Embeddings are multiplied by the root of their length.
        divides_logits: Logits are divided by ``logit_scale``, not multiplied.
        windows: Which layers have windows; None for no layer.
        router: None where there are no experts.
        temperature: None where queries do not depend on their position otherwise.
        score_scale: Factor of the scores; None for the root of a head's length, inverted.
        defaults: Keys -> what they are where a file lacks them.
        varies: Keys that may hold another number for each layer -> the least that one may be.
        arrays: Keys that hold a number for each layer, at least 0.
        requires: Keys that must be there, beyond those that every model has.
        reads: Keys that count, beyond those that count in every model.
        ignores: Keys that have no effect.
    """

    name: str
    rope: Literal["norm", "neox"] | None = "neox"
    is_encoder: bool = False
    has_positions: bool = False
    has_embedding_norm: bool = False
    is_post_normed: bool = False
    is_first_unnormed: bool = False
    states: States | None = None
    has_query_gates: bool = False
    has_result_gates: bool = False
    has_head_gates: bool = False
    has_value_lengths: bool = False
    rotates_half: bool = False
    is_one_part: bool = False
    may_lack_parts: bool = False
    output_norm: str = "output_norm"
    has_head_bias: bool = False
    ffn_norm: str = "ffn_norm.weight"
    rope_skip: int = 0
    halves_with_sections: bool = False
    rope_windows_only: bool = False
    rope_dense_lead: bool = False
    needs: tuple[str, ...] = NORMS
    may_have: tuple[str, ...] = ()
    has_fused_gate: bool = False
    n_ff_divisor: int = 1
    may_fuse_gate: bool = False
    has_whole_norms: bool = False
    has_own_norms: bool = False
    has_norms_after_rope: bool = False
    has_plain_norms: bool = False
    n_expert_unnormed: int | None = None
    has_value_norms: bool = False
    may_share_values: bool = False
    has_latents: bool = False
    yarn_scales_scores: bool = False
    has_altup: bool = False
    has_experts_by_tensors: bool = False
    n_layer_sparse: int = 0
    has_dense_beside: bool = False
    has_layer_norm: bool = False
    has_weightless_norms: bool = False
    has_rms_norm_by_key: bool = False
    post_attention_norm_is_before_ffn: bool = False
    is_parallel: bool = False
    routes_before_attention: bool = False
    averages_shared: bool = False
    activation: Activation = "silu"
    scales_embeddings: bool = False
    divides_logits: bool = False
    windows: Windows | None = None
    router: Router | None = None
    temperature: Temperature | None = None
    score_scale: Callable[[H], float] | None = None
    defaults: Mapping[str, Callable[[H], float]] = field(default_factory=dict)
    varies: Mapping[str, int] = field(default_factory=dict)
    arrays: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()

    @property
    def is_gated(self) -> bool:
        """Whether the feed-forward network has a gate beside ``up``."""
        return self.activation not in ("relu2", "plain_gelu", "xielu")

    def with_norms_of(self, hparams: H) -> Architecture:
        """Return the record for a file whose keys tell which norms it has."""
        is_rms = self.has_rms_norm_by_key and hparams.has(H.rms_epsilon)
        return replace(self, has_layer_norm=False) if is_rms else self

    def needed(self, i: int) -> Container[str]:
        """Return the vectors that layer ``i`` must have."""
        if i or not self.is_first_unnormed:
            return self.needs
        return [name for name in self.needs if name != "attn_norm.weight"]

    def fuses_gate(self, b: str, there: Container[str]) -> bool:
        """Tell whether ``ffn_up`` of a block holds the gate, too."""
        may_fuse = self.may_fuse_gate and f"{b}ffn_gate.weight" not in there
        return self.has_fused_gate or may_fuse
