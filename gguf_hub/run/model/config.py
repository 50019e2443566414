"""What a model is: the hyper-parameters that the runner computes with.

Knows which of them cannot go together; knows nothing of keys, tensors or arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.arch import ARCHITECTURES, LLAMA, Architecture, Temperature
from gguf_hub.gguf.arch.architecture import Activation
from gguf_hub.gguf.arch.graph import Graph, LayerGraph
from gguf_hub.gguf.hparams import ARCHITECTURE, GraphHyperParameters, HyperParameters
from gguf_hub.gguf.memory.sizes import ModelSizes
from gguf_hub.gguf.strings import shown
from gguf_hub.run.model.rope import RopeConfig

H = GraphHyperParameters
_LATENT_LOG = 10
"""What converters divided ``yarn_log_multiplier`` by, where attention has latents."""


@dataclass(frozen=True)
class RouterConfig:
    """How experts are chosen and weighted (see ``top_k_gate`` of ``run.kernels.steps``).

    Attributes:
        function: ``chosen``, ``softmax`` or ``sigmoid``.
        n_group: Groups of experts; 1 for no groups.
        n_group_used: Of these experts are chosen.
        is_normalized: Whether weights are divided by their sum.
        scale: Factor of the weights.
        is_first: Whether an expert's input is weighted, not its output; the choice is by logits.
    """

    function: str = "chosen"
    n_group: int = 1
    n_group_used: int = 1
    is_normalized: bool = False
    scale: float = 1.0
    is_first: bool = False


@dataclass(frozen=True)
class ModelConfig(ModelSizes):
    """Sizes of a model, and what else the runner computes with.

    Attributes:
        name: ``general.name``.
        n_ctx_train: Positions that it was trained on.
        epsilon: Of norms.
        rope: Rotations.
        arch: The architecture.
        layers: What each layer has; by default the same.
        activation: Of the feed-forward networks.
        rope_of_windows: Rotations in layers with windows, if they are others.
        score_log_multiplier: Of latent attention: how much of YaRN's factor scores have.
        router: Of the experts.
        is_parallel: Whether feed-forward networks read what attention reads, or a norm of it.
        temperature: Of queries at far positions, if it is not 1.
        embedding_scale: Factor of the embeddings.
        residual_scale: Factor of what is added to the residual stream.
        score_scale: Factor of attention's scores; 0 for the root of a head's length, inverted.
        alibi_bias: Largest exponent of the slopes by which scores fall with the distance; 0 for no
            such slopes.
        clamp_kqv: Queries, keys and values are brought within this; 0 for no bound.
        score_cap: Soft cap of scores; 0 for none.
        logit_scale: Factor of the logits.
        logit_cap: Soft cap of logits; 0 for none.
        value_scale: Factor of attention's results.
        norms_rates: Whether what a Mamba's scan is steered by is normed without weights.
        adapters_id: Tells LoRA adapters and their scales from others; empty without any.
    """

    name: str
    n_ctx_train: int
    epsilon: float
    rope: RopeConfig
    arch: Architecture = LLAMA
    layers: tuple[LayerGraph, ...] = field(default=(), kw_only=True)
    activation: Activation = "silu"
    rope_of_windows: RopeConfig | None = None
    score_log_multiplier: float = 0.0
    router: RouterConfig = RouterConfig()
    is_parallel: bool = False
    temperature: Temperature | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    score_scale: float = 0.0
    alibi_bias: float = 0.0
    clamp_kqv: float = 0.0
    score_cap: float = 0.0
    logit_scale: float = 1.0
    logit_cap: float = 0.0
    value_scale: float = 1.0
    norms_rates: bool = False
    adapters_id: str = field(default="", repr=False)

    @property
    def has_states(self) -> bool:
        """Whether layers carry a state, which cannot go back to any position."""
        return any(layer.state for layer in self.layers)


def read_graph(hparams: HyperParameters) -> Graph:
    """Return the graph of a model.

    Raises:
        UnsupportedGgufError: Another architecture.
    """
    name = hparams.metadata.text(ARCHITECTURE, "")
    if name not in ARCHITECTURES:
        raise UnsupportedGgufError(
            f"architecture `{shown(name)}` is not one that runs here",
            hint="docs/models.md lists those that do; llama.cpp runs many others",
        )
    return Graph(ARCHITECTURES[name], hparams.of_graph())


def read_config(graph: Graph) -> ModelConfig:
    """Return the configuration of a model.

    Raises:
        UnsupportedGgufError: A key that is missing or makes no sense.
    """
    hparams, arch = graph.hparams, graph.arch
    rope = _rope(graph)
    windows = _rope_of_windows(graph, rope)
    config = ModelConfig(
        name=hparams.metadata.text("general.name", "unnamed"),
        n_vocab=hparams.n_vocab,
        n_ctx_train=hparams.n_ctx_train,
        n_layer=graph.n_layer,
        n_embd=hparams.n_embd,
        n_head=hparams.n_head,
        n_head_kv=hparams.n_head_kv,
        head_dim=hparams.head_dim,
        n_ff=hparams.n_ff // arch.n_ff_divisor,
        n_expert=hparams.n_expert,
        n_expert_used=hparams.n_expert_used,
        n_ff_exp=graph.n_ff_exp,
        n_rope=1 if windows is None else 2,
        epsilon=hparams.layer_norm_epsilon if arch.has_layer_norm else hparams.rms_epsilon,
        rope=rope,
        arch=arch,
        activation=_activation(graph),
        rope_of_windows=windows,
        score_log_multiplier=_LATENT_LOG * graph.value(H.yarn_log_multiplier.name)
        if arch.has_latents
        else 0.0,
        router=_router(graph),
        temperature=_temperature(graph),
        norms_rates=H.has_ssm_dt_b_c_rms.name in arch.reads and hparams.has_ssm_dt_b_c_rms,
        **graph.sizes(),
        **_scales(graph),
    )
    _check(config)
    return config


def _activation(graph: Graph) -> Activation:
    if H.hidden_activation.name not in graph.arch.reads:
        return graph.arch.activation
    return "gelu" if graph.hparams.hidden_activation in ("gelu", "geglu") else "silu"


def _scales(graph: Graph) -> dict[str, Any]:
    """Return the factors and caps of a model."""
    arch, h = graph.arch, graph.hparams
    root = math.sqrt(h.n_embd) if arch.scales_embeddings else 1.0
    logit_scale = graph.value(H.logit_scale.name) or 1.0
    residual_scale = graph.value(H.residual_scale.name) or 1.0
    score_scale = graph.value(H.attention_scale.name)
    return {
        "embedding_scale": (graph.value(H.embedding_scale.name) or 1.0) * root,
        "residual_scale": residual_scale,
        "score_scale": arch.score_scale(h) if arch.score_scale else score_scale,
        "alibi_bias": graph.value(H.max_alibi_bias.name),
        "clamp_kqv": graph.value(H.clamp_kqv.name),
        "score_cap": graph.value(H.score_cap.name),
        "logit_scale": 1 / logit_scale if arch.divides_logits else logit_scale,
        "logit_cap": graph.value(H.logit_cap.name),
        "value_scale": graph.value(H.value_scale.name) or 1.0,
    }


def _router(graph: Graph) -> RouterConfig:
    arch, h = graph.arch, graph.hparams
    if arch.router is None:
        return RouterConfig()
    number = int(graph.value(H.gating_func.name))
    function = {1: "softmax", 2: "sigmoid"}.get(number, arch.router.function)
    is_normalized = arch.router.is_normalized
    if H.weights_norm.name in arch.reads and h.has(H.weights_norm):
        is_normalized = h.weights_norm
    n_group = max(1, int(graph.value(H.n_group.name)))
    is_plain = n_group == 1 and "exp_probs_b.bias" not in (*arch.needs, *arch.may_have)
    if function == "softmax" and is_normalized and is_plain:
        function, is_normalized = "chosen", False  # the same numbers
    return RouterConfig(
        function=function,
        n_group=n_group,
        n_group_used=max(1, int(graph.value(H.n_group_used.name))) if n_group > 1 else 1,
        is_normalized=is_normalized,
        scale=graph.value(H.weights_scale.name) or 1.0,
        is_first=arch.router.is_first,
    )


def _temperature(graph: Graph) -> Temperature | None:
    arch, h = graph.arch, graph.hparams
    if arch.temperature is None:
        return None
    scale = graph.value(H.temperature_scale.name) or arch.temperature.scale
    length = arch.temperature.length or int(graph.value(H.temperature_length.name)) or h.n_ctx_orig
    has_windows = arch.windows is None or any(layer.is_windowed for layer in graph.layers())
    return replace(arch.temperature, scale=scale, length=length) if scale and has_windows else None


def _rope(graph: Graph) -> RopeConfig:
    h = graph.hparams
    alpha = graph.value(H.rope_alpha.name)
    n_rot = h.n_rot // 2 if graph.arch.rotates_half else h.n_rot
    log_multiplier = graph.value(H.yarn_log_multiplier.name)
    if graph.arch.has_latents:
        log_multiplier *= _LATENT_LOG
    if graph.arch.yarn_scales_scores and log_multiplier:
        log_multiplier = 1.0  # nothing is left of the factor
    stretch = alpha ** (h.head_dim / (h.head_dim - 2)) if alpha > 0 and h.head_dim > 2 else 1.0
    return RopeConfig(
        n_rot=n_rot,
        freq_base=h.rope_freq_base * stretch,
        scaling=h.rope_scaling,
        factor=h.rope_factor or 1.0,
        n_ctx_orig=h.n_ctx_orig,
        attn_factor=h.rope_attn_factor,
        yarn_attn_factor=h.yarn_attn_factor,
        ext_factor=h.yarn_ext_factor,
        beta_fast=h.yarn_beta_fast,
        beta_slow=h.yarn_beta_slow,
        log_multiplier=log_multiplier,
    )


def _rope_of_windows(graph: Graph, rope: RopeConfig) -> RopeConfig | None:
    """Return the rotations of layers with windows; None for those of all layers."""
    windows, h = graph.arch.windows, graph.hparams
    if windows is None or not any(layer.is_windowed for layer in graph.layers()):
        return None
    own = rope
    if windows.is_plain:
        own = RopeConfig(n_rot=rope.n_rot, freq_base=rope.freq_base, scaling="none")
    usual = windows.freq_base or own.freq_base
    if H.rope_freq_base_swa.name in graph.arch.reads:
        usual = h.get(H.rope_freq_base_swa, usual)
    own = replace(own, freq_base=usual)
    if windows.has_own_heads:
        return replace(own, n_rot=h.n_rot_swa)
    return None if own == rope else own


def _check(config: ModelConfig) -> None:
    problem = next(_problems(config), None)
    if problem:
        raise UnsupportedGgufError(f"metadata: {problem}")


def _problems(config: ModelConfig) -> Iterator[str]:
    """Yield what cannot go together."""
    for layer in dict.fromkeys(config.layers):
        if layer.n_head_kv:
            yield from _head_problems(config, layer)
    for i, layer in enumerate(config.layers):
        source = config.layers[i - layer.n_back_kv]
        if (layer.n_embd_k, layer.head_dim) != (source.n_embd_k, source.head_dim):
            yield f"layer {i} cannot read layer {i - layer.n_back_kv}'s keys: their heads differ"
    if config.rope.factor <= 0:
        yield f"{HyperParameters.rope_factor.name} {config.rope.factor}: expected more than 0"
    if bool(config.n_expert) != bool(config.n_expert_used) or (
        config.n_expert_used > config.n_expert
    ):
        yield f"{config.n_expert_used} of {config.n_expert} experts used"
    elif config.n_expert:
        yield from _group_problems(config)


def _group_problems(config: ModelConfig) -> Iterator[str]:
    """Yield what cannot be of groups of experts."""
    n_group, n_used = config.router.n_group, config.router.n_group_used
    if config.n_expert % n_group:
        yield f"{H.n_group.name}: {config.n_expert} experts do not divide among {n_group:,} groups"
    elif n_used > n_group:
        yield f"{H.n_group_used.name}: {n_used:,} of {n_group:,} groups used"
    elif config.n_expert_used > config.n_expert // n_group * n_used:
        yield (
            f"{H.n_group_used.name}: {n_used} groups of {config.n_expert // n_group} experts, of "
            f"which {config.n_expert_used} are used"
        )


def _head_problems(config: ModelConfig, layer: LayerGraph) -> Iterator[str]:
    """Yield what cannot be of a layer's attention."""
    if not layer.n_head or layer.n_head % layer.n_head_kv:
        yield f"{layer.n_head} heads cannot share {layer.n_head_kv} key/value heads"
    may_differ = config.latents or config.arch.has_value_lengths
    if layer.head_dim != layer.n_embd_head_v and not may_differ:
        yield (
            f"heads of keys have a length of {layer.head_dim}, those of values one of "
            f"{layer.n_embd_head_v}: expected the same"
        )
    is_other = layer.is_windowed and config.rope_of_windows is not None
    hparam, rope = (H.n_rot_swa, config.rope_of_windows) if is_other else (H.n_rot, config.rope)
    assert rope is not None
    if rope.n_rot % 2 or rope.n_rot > layer.head_dim:
        yield (
            f"{hparam.name} {rope.n_rot}: expected an even number up to the head's {layer.head_dim}"
        )
