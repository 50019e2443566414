"""Hyper-parameters: the keys ``ARCHITECTURE.…`` of a GGUF, under llama.cpp's names.

The one place that knows how such a key is spelled, its type, its default and its range, and how
many tokens a model has. Knows nothing of which models run here (``runnable``) or are valid.

Source: LLM_KV_NAMES in src/llama-arch.cpp, load_hparams in src/llama-model.cpp of llama.cpp.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar, overload

import numpy as np

from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.format import AnyTensor, Field
from gguf_hub.gguf.metadata import MAX_UINT, Metadata, bounds, or_none, whole_number
from gguf_hub.gguf.strings import StringArray

CAUSAL = "attention.causal"
"""Key that tells, behind the architecture, whether a token sees those before it alone."""

T = TypeVar("T", int, float, str, bool)
K = TypeVar("K", bound="HyperParameter[Any]")

ARCHITECTURE = "general.architecture"
"""The key whose value all hyper-parameters begin with."""
CLASSIFIER_LABELS = "classifier.output_labels"
"""What stands behind the architecture in the key of a reranker's classes."""


@dataclass(frozen=True, eq=False)
class HyperParameter(ABC, Generic[T]):
    """A key; as an attribute of ``HyperParameters``, its value.

    Attributes:
        name: What stands behind the architecture.
        default: Where a file has no such key; it may follow from others. None where it must.
        types: Names of the types that programs take (``Field.type_name``); none for any.
        is_global: No architecture stands before the name.
    """

    name: str
    default: T | Callable[[HyperParameters], T | None] | None = None
    types: tuple[str, ...] = ()
    is_global: bool = False

    @overload
    def __get__(self: K, hparams: None, owner: Any) -> K: ...
    @overload
    def __get__(self, hparams: HyperParameters, owner: Any) -> T: ...
    def __get__(self, hparams: HyperParameters | None, owner: Any) -> Any:
        return self if hparams is None else hparams.get(self)

    @abstractmethod
    def _reader(self, metadata: Metadata, is_estimate: bool) -> Callable[..., T]: ...

    def _range(self) -> dict[str, Any]:
        own = HyperParameter.__dataclass_fields__
        return {name: value for name, value in vars(self).items() if name not in own}


_OF_LAYERS = ("uint32", "array of int32", "array of uint32")
"""Types of a number that may be given for each layer."""


@dataclass(frozen=True, eq=False)
class WholeNumber(HyperParameter[int]):
    """A whole number from ``least`` to ``most``."""

    types: tuple[str, ...] = ("uint32",)
    least: int = 0
    most: int = MAX_UINT

    def _reader(self, metadata: Metadata, is_estimate: bool) -> Callable[..., int]:
        if is_estimate:
            return metadata.largest
        return metadata.uniform if self.types == _OF_LAYERS else metadata.uint


@dataclass(frozen=True, eq=False)
class Number(HyperParameter[float]):
    """A finite number of at least ``least`` and more than ``above``."""

    types: tuple[str, ...] = ("float32",)
    least: float = -math.inf
    above: float = -math.inf

    @property
    def bounds(self) -> str:
        """The range, for a message."""
        return bounds(self.least, self.above)

    def allows(self, value: float) -> bool:
        """Tell whether a value is finite and in range."""
        return math.isfinite(value) and value >= self.least and value > self.above

    def _reader(self, metadata: Metadata, is_estimate: bool) -> Callable[..., float]:
        return metadata.number


_NUMBERS_OF_LAYERS = ("float32", "array of float32")
"""Types of such a number that may be given for each layer."""


@dataclass(frozen=True, eq=False)
class LayerNumber(Number):
    """A finite number, or one for each layer (``HyperParameters.numbers``)."""

    types: tuple[str, ...] = _NUMBERS_OF_LAYERS

    def _reader(self, metadata: Metadata, is_estimate: bool) -> Callable[..., float]:
        def first(key: str, default: float | None, **limits: float) -> float:
            value = metadata.raw(key)
            if isinstance(value, np.ndarray) and value.size:
                return Metadata({key: value[0].item()}).number(key, **limits)
            return metadata.number(key, default, **limits)

        return first


@dataclass(frozen=True, eq=False)
class Word(HyperParameter[str]):
    """One of ``words``."""

    types: tuple[str, ...] = ("string",)
    words: tuple[str, ...] = ()

    def _reader(self, metadata: Metadata, is_estimate: bool) -> Callable[..., str]:
        return metadata.text


@dataclass(frozen=True, eq=False)
class Flag(HyperParameter[bool]):
    """True or false."""

    types: tuple[str, ...] = ("bool",)

    def _reader(self, metadata: Metadata, is_estimate: bool) -> Callable[..., bool]:
        return metadata.flag


class HyperParameters:
    """What a model's metadata says of its sizes; nothing is read before it is asked for.

    An attribute is the value of a key, or its default. It raises ``UnsupportedGgufError`` with the
    key, what was expected and what was found, where the key is missing or makes no sense.
    ``HyperParameters.n_layer`` is the key itself, for the methods.

    Args:
        fields: Metadata as ``Field`` or plain values.
        tensors: Of the whole model, by name: the embeddings may tell how many tokens there are.
        is_estimate: Take the largest of an array where one number is meant.
    """

    n_ctx_train = WholeNumber("context_length", least=1)
    n_embd = WholeNumber("embedding_length", least=1)
    n_layer = WholeNumber("block_count", least=1)
    n_ff = WholeNumber("feed_forward_length", lambda h: h.n_ff_of_experts, _OF_LAYERS, least=1)
    n_head = WholeNumber("attention.head_count", None, _OF_LAYERS, least=1)
    rms_epsilon = Number("attention.layer_norm_rms_epsilon", least=0)
    n_head_kv = WholeNumber("attention.head_count_kv", lambda h: h.n_head, _OF_LAYERS, least=1)
    head_dim = WholeNumber("attention.key_length", lambda h: h.n_embd // max(1, h.n_head), least=1)
    n_embd_head_v = WholeNumber("attention.value_length", lambda h: h.head_dim, least=1)
    n_expert = WholeNumber("expert_count", 0)
    n_expert_used = WholeNumber("expert_used_count", 0)
    n_ff_exp = WholeNumber("expert_feed_forward_length", lambda h: h.n_ff, (), least=1)
    vocab_size = WholeNumber("vocab_size", 0)
    pooling_type = WholeNumber("pooling_type", 0, (), most=4)

    n_rot = WholeNumber("rope.dimension_count", lambda h: h.head_dim, least=1)
    rope_freq_base = Number("rope.freq_base", 10000.0, above=1)  # its logarithm is divided by
    rope_scale_linear = Number("rope.scale_linear", 1.0)
    # as llama.cpp reads it: linear where no type is named, which is plain with a factor of 1
    rope_scaling = Word("rope.scaling.type", "linear", words=("none", "linear", "yarn", "longrope"))
    rope_factor = Number("rope.scaling.factor", lambda h: h.rope_scale_linear)
    rope_attn_factor = Number("rope.scaling.attn_factor", 1.0)
    n_ctx_orig = WholeNumber(
        "rope.scaling.original_context_length", lambda h: h.n_ctx_train, least=1
    )
    yarn_attn_factor = Number("rope.scaling.yarn_attn_factor", 1.0)
    yarn_ext_factor = Number("rope.scaling.yarn_ext_factor", -1.0)
    yarn_beta_fast = Number("rope.scaling.yarn_beta_fast", 32.0, above=0)  # its logarithm is taken
    yarn_beta_slow = Number("rope.scaling.yarn_beta_slow", 1.0, above=0)

    varies: Mapping[str, int] = MappingProxyType({})

    def __init__(
        self,
        fields: Mapping[str, Any],
        tensors: Mapping[str, AnyTensor] | None = None,
        *,
        is_estimate: bool = False,
    ) -> None:
        self.metadata = Metadata.of(fields)
        self.architecture = architecture(fields)
        self.is_estimate = is_estimate
        self._tensors = tensors or {}

    def of_graph(self, varies: Mapping[str, int] | None = None) -> GraphHyperParameters:
        """Return the same with the keys that only some architectures read.

        Args:
            varies: Keys that may hold another number for each layer, of which ``get`` returns the
                largest; by their names, and the least that one may be.
        """
        hparams = GraphHyperParameters(self.metadata, self._tensors, is_estimate=self.is_estimate)
        hparams.varies = varies or {}
        return hparams

    def key(self, hparam: HyperParameter[Any]) -> str:
        """Return a key as the file spells it."""
        return hparam.name if hparam.is_global else f"{self.architecture}.{hparam.name}"

    def has(self, hparam: HyperParameter[Any]) -> bool:
        """Tell whether the file has a key."""
        return self.key(hparam) in self.metadata

    def has_tensor(self, name: str) -> bool:
        """Tell whether the file has a tensor."""
        return name in self._tensors

    def get(self, hparam: HyperParameter[T], default: T | None = None) -> T:
        """Return a value, or another default than the usual one.

        Raises:
            UnsupportedGgufError: The key is missing or makes no sense.
        """
        usual = None
        if not self.has(hparam):
            if default is not None:
                return default
            usual = hparam.default(self) if callable(hparam.default) else hparam.default
        if not self.is_estimate and (problem := self.length_problem(hparam)):
            raise UnsupportedGgufError(
                f"metadata `{self.key(hparam)}`: {problem}",
                hint="`gguf-hub verify` checks the file",
            )
        is_largest = self.is_estimate or hparam.name in self.varies
        read = hparam._reader(self.metadata, is_largest)
        limits = hparam._range()
        if hparam.name in self.varies:
            limits["least"] = self.varies[hparam.name]
        return read(self.key(hparam), usual, **limits)

    def stated(self, hparam: HyperParameter[T]) -> T | None:
        """Return what the file says, the largest of an array, in range or not; None for nothing.

        For those who show what a file holds, damaged or not.
        """
        return or_none(hparam._reader(self.metadata, is_estimate=True), self.key(hparam))

    @property
    def missing(self) -> list[HyperParameter[Any]]:
        """The keys that the file lacks and without which no loader starts."""
        needed = [hparam for hparam in HPARAMS.values() if hparam.default is None]
        if self.n_ff_of_experts is None:
            needed.append(HyperParameters.n_ff)
        return [hparam for hparam in needed if not self.has(hparam)]

    @property
    def n_ff_of_experts(self) -> int | None:
        """The width of experts, for mixtures that tell no other, as Qwen 3.5's; None for none."""
        return self.n_ff_exp if self.has(HyperParameters.n_ff_exp) else None

    def is_array(self, hparam: HyperParameter[Any]) -> bool:
        """Tell whether the file has numbers or flags for each layer."""
        return isinstance(self.metadata.raw(self.key(hparam)), np.ndarray)

    def length_problem(self, hparam: HyperParameter[Any]) -> str:
        """Return that an array has not one number for each layer; empty where it has.

        Also empty for a key that no program reads as an array.
        """
        value = self.metadata.raw(self.key(hparam))
        n_layer = self.stated(HyperParameters.n_layer)
        is_right = not isinstance(value, np.ndarray) or n_layer is None or len(value) == n_layer
        if is_right or hparam.types not in (_OF_LAYERS, _NUMBERS_OF_LAYERS):
            return ""
        return f"expected one number for each of {n_layer:,} layers, found {len(value):,}"

    def per_layer(self, hparam: WholeNumber, n_layer: int, default: int = 0) -> list[int]:
        """Return what the file says for each layer, in range or not; 0 where an array ends.

        Flags count as 0 and 1.
        """
        value = self.metadata.raw(self.key(hparam))
        if isinstance(value, np.ndarray) and value.dtype == np.bool_:
            value = value.view(np.uint8)
        if isinstance(value, (np.ndarray, StringArray)):
            numbers = [whole_number(number) or 0 for number in value[:n_layer]]
            return numbers + [0] * (n_layer - len(numbers))
        number = self.stated(hparam)
        return [default if number is None else number] * n_layer

    def numbers(self, hparam: LayerNumber, n_layer: int) -> list[float]:
        """Return what the file says for each layer; the key must be there.

        Raises:
            UnsupportedGgufError: As ``get``.
        """
        first, value = self.get(hparam), self.metadata.raw(self.key(hparam))
        if isinstance(value, np.ndarray):
            return [float(number) for number in value[:n_layer]]
        return [first] * n_layer

    def number_of(self, hparam: Number, i: int) -> float:
        """Return what an array says of layer ``i``, or one number of all; 0 where it ends."""
        value = self.metadata.raw(self.key(hparam))
        if isinstance(value, np.ndarray):
            value = value[i] if i < len(value) else 0
        return float(value or 0)

    @property
    def n_vocab(self) -> int:
        """How many tokens a model has: as many as its vocabulary, or as ``vocab_size`` says.

        Where a file has neither, one for each row of the embeddings; there may be more rows than
        tokens, which no token uses. 0 where nothing tells.
        """
        if self.n_tokens:
            return self.n_tokens
        stated = self.stated(HyperParameters.vocab_size)
        return self.n_embd_rows if stated is None else stated

    @property
    def n_tokens(self) -> int:
        """Tokens of the vocabulary in the file; 0 where it has none."""
        tokens = self.metadata.raw("tokenizer.ggml.tokens")
        return len(tokens) if isinstance(tokens, (StringArray, list)) else 0

    @property
    def n_embd_rows(self) -> int:
        """Rows of the embeddings."""
        info = self._tensors.get("token_embd.weight")
        return info.shape[1] if info and len(info.shape) > 1 else 0


class CacheHyperParameters(HyperParameters):
    """Also the keys that tell what other programs' caches take; no runner of ours reads them."""

    n_swa = WholeNumber("attention.sliding_window", 0)
    swa_pattern = WholeNumber("attention.sliding_window_pattern", 0)
    head_dim_swa = WholeNumber("attention.key_length_swa", lambda h: h.head_dim)
    n_embd_head_v_swa = WholeNumber("attention.value_length_swa", lambda h: h.n_embd_head_v)
    head_dim_mla = WholeNumber("attention.key_length_mla", 0)
    n_embd_head_v_mla = WholeNumber("attention.value_length_mla", 0)
    indexer_head_dim = WholeNumber("attention.indexer.key_length", 0)
    n_layer_kv_shared = WholeNumber("attention.shared_kv_layers", 0)
    n_layer_nextn = WholeNumber("nextn_predict_layers", 0)
    full_attention_interval = WholeNumber("full_attention_interval", 0)
    rope_sections = WholeNumber("rope.dimension_sections", 0)
    is_recurrent = WholeNumber("attention.recurrent_layers", 0)
    ssm_d_conv = WholeNumber("ssm.conv_kernel", 0)
    ssm_d_inner = WholeNumber("ssm.inner_size", 0)
    ssm_d_state = WholeNumber("ssm.state_size", 0)
    ssm_n_group = WholeNumber("ssm.group_count", 0)
    ssm_dt_rank = WholeNumber("ssm.time_step_rank", 0)
    has_ssm_dt_b_c_rms = Flag("ssm.dt_b_c_rms", False)
    n_shortconv_l_cache = WholeNumber("shortconv.l_cache", 0)
    kda_head_dim = WholeNumber("kda.head_dim", 0)
    wkv_head_size = WholeNumber("wkv.head_size", 0)
    token_shift_count = WholeNumber("token_shift_count", 2)


class GraphHyperParameters(CacheHyperParameters):
    """Also the keys that change the graph of some architectures (``arch.Architecture.reads``)."""

    layer_norm_epsilon = Number("attention.layer_norm_epsilon", least=0)
    score_cap = Number("attn_logit_softcapping", 0.0, least=0)
    logit_cap = Number("final_logit_softcapping", 0.0, least=0)
    embedding_scale = Number("embedding_scale", 0.0)
    residual_scale = Number("residual_scale", 0.0)
    attention_scale = Number("attention.scale", 0.0)
    logit_scale = Number("logit_scale", 0.0)
    value_scale = Number("attention.value_scale", 0.0)
    swiglu_clamp_exp = Number("swiglu_clamp_exp", 0.0)
    swiglu_clamp_shexp = Number("swiglu_clamp_shexp", 0.0)
    temperature_scale = Number("attention.temperature_scale", 0.0)
    clamp_kqv = Number("attention.clamp_kqv", 0.0, least=0)
    max_alibi_bias = Number("attention.max_alibi_bias", 0.0, least=0)
    xielu_alpha_n = LayerNumber("xielu.alpha_n", is_global=True)
    xielu_alpha_p = LayerNumber("xielu.alpha_p", is_global=True)
    xielu_beta = LayerNumber("xielu.beta", is_global=True)
    xielu_eps = LayerNumber("xielu.eps", is_global=True)
    parallel_residual = Flag("use_parallel_residual", False)
    rope_finetuned = Flag("rope.scaling.finetuned", True)
    rope_alpha = Number("rope.scaling.alpha", 0.0, least=0)
    rope_freq_base_swa = Number("rope.freq_base_swa", lambda h: h.rope_freq_base, above=1)
    yarn_log_multiplier = Number("rope.scaling.yarn_log_multiplier", 0.0)
    gating_func = WholeNumber("expert_gating_func", 0, most=2)
    weights_norm = Flag("expert_weights_norm", False)
    weights_scale = Number("expert_weights_scale", 0.0)
    n_group = WholeNumber("expert_group_count", 0)
    n_group_used = WholeNumber("expert_group_used_count", 0)
    n_expert_shared = WholeNumber("expert_shared_count", 0)
    n_ff_shexp = WholeNumber("expert_shared_feed_forward_length", 0)
    n_dense_lead = WholeNumber("leading_dense_block_count", 0)
    moe_step = WholeNumber("interleave_moe_layer_step", 1)
    moe_every = WholeNumber("moe_every_n_layers", 0)
    n_rot_swa = WholeNumber("rope.dimension_count_swa", lambda h: h.n_rot, least=1)
    n_embd_moe = WholeNumber("moe_latent_size", 0)
    n_embd_per_layer = WholeNumber("embedding_length_per_layer_input", 0)
    n_altup = WholeNumber("altup.num_inputs", 4, least=2, most=16)
    n_lora_q = WholeNumber("attention.q_lora_rank", 0)
    n_lora_kv = WholeNumber("attention.kv_lora_rank", least=1)
    temperature_length = WholeNumber("attention.temperature_length", 0)
    is_causal = Flag(CAUSAL, True)
    classifier_pooling = WholeNumber("classifier.pooling_type", 0, (), most=4)

    hidden_activation = Word(
        "hidden_activation", "gelu", words=("gelu", "geglu", "silu", "swish", "swiglu")
    )
    dense_2_feat_in = WholeNumber("dense_2_feat_in", 0)
    dense_2_feat_out = WholeNumber("dense_2_feat_out", 0)
    dense_3_feat_in = WholeNumber("dense_3_feat_in", 0)
    dense_3_feat_out = WholeNumber("dense_3_feat_out", 0)

    @property
    def classifier_labels(self) -> tuple[str, ...]:
        """Names of a reranker's classes; none where a file has no names."""
        labels = self.metadata.raw(f"{self.architecture}.{CLASSIFIER_LABELS}")
        return tuple(map(str, labels)) if isinstance(labels, (StringArray, list)) else ()

    @property
    def n_cls_out(self) -> int:
        """Scores that a reranker has for a text."""
        return max(1, len(self.classifier_labels))


GRAPH_HPARAMS: Mapping[str, HyperParameter[Any]] = {
    hparam.name: hparam
    for owner in (GraphHyperParameters, CacheHyperParameters, HyperParameters)
    for hparam in vars(owner).values()
    if isinstance(hparam, HyperParameter)
}
"""Every key that an architecture may read, by its name."""
HPARAMS: Mapping[str, HyperParameter[Any]] = {
    hparam.name: hparam
    for hparam in vars(HyperParameters).values()
    if isinstance(hparam, HyperParameter)
}
"""The keys of the models that run here, by their names."""


def architecture(fields: Mapping[str, Any]) -> str:
    """Return ``general.architecture``, or "" when it is absent or no text."""
    value = fields.get(ARCHITECTURE)
    value = value.value if isinstance(value, Field) else value
    return value if isinstance(value, str) else ""
