"""llama-cpp-python's signatures: names, order, defaults and types of parameters.

The methods of ``Llama`` take what they use by name. ``like`` lets callers give arguments by
position, too, in llama-cpp-python's order, and shows its parameters to ``inspect.signature``, which
some programs ask for what they may set, and to type checkers.

Source: llama_cpp/llama.py of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from difflib import get_close_matches
from inspect import Parameter
from typing import Any, TypedDict, TypeVar

from typing_extensions import ParamSpec, Unpack

from gguf_hub.api.llama.grammar import LlamaGrammar
from gguf_hub.errors import did_you_mean

P = ParamSpec("P")
R = TypeVar("R")
NO_STOPS: list[str] = []


class MoreSampling(TypedDict, total=False):
    """Sampling options that llama-cpp-python lacks (see ``SamplerConfig``)."""

    top_n_sigma: float
    repeat_last_n: int
    xtc_probability: float
    xtc_threshold: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dynatemp_range: float
    dynatemp_exponent: float
    min_keep: int
    samplers: str | Sequence[str]


# the functions below are signatures, nothing else


def constructor(
    self: Any, model_path: str | os.PathLike[str], *, n_gpu_layers: int = 0, split_mode: int = 1,
    main_gpu: int = 0, tensor_split: Sequence[float] | None = None, vocab_only: bool = False,
    use_mmap: bool = True, use_mlock: bool = False,
    kv_overrides: Mapping[str, bool | int | float | str] | None = None, seed: int = 0xFFFFFFFF,
    n_ctx: int = 512, n_batch: int = 512, n_ubatch: int = 512, n_threads: int | None = None,
    n_threads_batch: int | None = None, rope_scaling_type: int | None = -1, pooling_type: int = -1,
    attention_type: int = -1, rope_freq_base: float = 0.0, rope_freq_scale: float = 0.0,
    yarn_ext_factor: float = -1.0, yarn_attn_factor: float = 1.0, yarn_beta_fast: float = 32.0,
    yarn_beta_slow: float = 1.0, yarn_orig_ctx: int = 0, logits_all: bool = False,
    embedding: bool = False, offload_kqv: bool = True, flash_attn: bool = False,
    op_offload: bool | None = None, swa_full: bool | None = None, no_perf: bool = False,
    last_n_tokens_size: int = 64, lora_base: str | None = None, lora_scale: float = 1.0,
    lora_path: str | None = None, numa: bool | int = False, chat_format: str | None = None,
    chat_handler: Any = None, draft_model: Any = None, tokenizer: Any = None,
    type_k: int | None = None, type_v: int | None = None, spm_infill: bool = False,
    verbose: bool = True, cluster: str | None = None, **kwargs: Any,
) -> None:  # fmt: skip
    """Open a model."""
    raise NotImplementedError


def completion(
    self: Any, prompt: str | Sequence[int], suffix: str | None = None,
    max_tokens: int | None = 16, temperature: float = 0.8, top_p: float = 0.95,
    min_p: float = 0.05, typical_p: float = 1.0, logprobs: int | None = None, echo: bool = False,
    stop: str | Sequence[str] | None = NO_STOPS, frequency_penalty: float = 0.0,
    presence_penalty: float = 0.0, repeat_penalty: float = 1.0, top_k: int = 40,
    stream: bool = False, seed: int | None = None, tfs_z: float = 1.0, mirostat_mode: int = 0,
    mirostat_tau: float = 5.0, mirostat_eta: float = 0.1, model: str | None = None,
    stopping_criteria: Any = None, logits_processor: Any = None,
    grammar: LlamaGrammar | str | None = None, logit_bias: Mapping[Any, float] | None = None,
    **more: Unpack[MoreSampling],
) -> Any:  # fmt: skip
    """Complete a text."""
    raise NotImplementedError


def chat(
    self: Any, messages: Sequence[Mapping[str, Any]],
    functions: Sequence[Mapping[str, Any]] | None = None, function_call: Any = None,
    tools: Sequence[Mapping[str, Any]] | None = None, tool_choice: Any = None,
    temperature: float = 0.2, top_p: float = 0.95, top_k: int = 40, min_p: float = 0.05,
    typical_p: float = 1.0, stream: bool = False, stop: str | Sequence[str] | None = NO_STOPS,
    seed: int | None = None, response_format: Mapping[str, Any] | None = None,
    max_tokens: int | None = None, presence_penalty: float = 0.0, frequency_penalty: float = 0.0,
    repeat_penalty: float = 1.0, tfs_z: float = 1.0, mirostat_mode: int = 0,
    mirostat_tau: float = 5.0, mirostat_eta: float = 0.1, model: str | None = None,
    logits_processor: Any = None, grammar: LlamaGrammar | str | None = None,
    logit_bias: Mapping[Any, float] | None = None, logprobs: bool | None = None,
    top_logprobs: int | None = None, *, stream_options: Mapping[str, Any] | None = None,
    **more: Unpack[MoreSampling],
) -> Any:  # fmt: skip
    """Answer a conversation."""
    raise NotImplementedError


def generate(
    self: Any, tokens: Sequence[int], top_k: int = 40, top_p: float = 0.95, min_p: float = 0.05,
    typical_p: float = 1.0, temp: float = 0.8, repeat_penalty: float = 1.0, reset: bool = True,
    frequency_penalty: float = 0.0, presence_penalty: float = 0.0, tfs_z: float = 1.0,
    mirostat_mode: int = 0, mirostat_tau: float = 5.0, mirostat_eta: float = 0.1,
    penalize_nl: bool = True, logits_processor: Any = None, stopping_criteria: Any = None,
    grammar: LlamaGrammar | str | None = None, **more: Unpack[MoreSampling],
) -> Generator[int, Sequence[int] | None, None]:  # fmt: skip
    """Yield token ids."""
    raise NotImplementedError


def sample(
    self: Any, top_k: int = 40, top_p: float = 0.95, min_p: float = 0.05, typical_p: float = 1.0,
    temp: float = 0.8, repeat_penalty: float = 1.0, frequency_penalty: float = 0.0,
    presence_penalty: float = 0.0, tfs_z: float = 1.0, mirostat_mode: int = 0,
    mirostat_eta: float = 0.1, mirostat_tau: float = 5.0, penalize_nl: bool = True,
    logits_processor: Any = None, grammar: LlamaGrammar | str | None = None,
    idx: int | None = None, **more: Unpack[MoreSampling],
) -> int:  # fmt: skip
    """Sample a token."""
    raise NotImplementedError


_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def defaults(signature: Callable[..., Any]) -> dict[str, Any]:
    """Return the parameters that may be left out, and what they are then."""
    parameters = inspect.signature(signature).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def like(signature: Callable[P, R]) -> Callable[[Callable[..., Any]], Callable[P, R]]:
    """Return a decorator of a method that takes its options by name.

    Args:
        signature: A function whose parameters stand in the order in which they may be given by
            position. What is left out is not passed on, so that a default is decided in one place.
    """
    shown = inspect.signature(signature)
    order = [p.name for p in shown.parameters.values() if p.kind in _POSITIONAL][1:]
    takes_any = "kwargs" in shown.parameters
    known = {*shown.parameters, *MoreSampling.__annotations__} - {"more"}

    def decorate(method: Callable[..., Any]) -> Callable[P, R]:
        @functools.wraps(method)
        def call(self: Any, /, *given: Any, **options: Any) -> Any:
            """Call with the arguments by name, after refusing unknown ones."""
            if not takes_any:
                _require_known(method.__name__, options, known)
            return method(self, **_by_name(method.__name__, order, given, options))

        vars(call)["__signature__"] = shown
        return call  # type: ignore[return-value]

    return decorate


def _require_known(method: str, options: Collection[str], known: Collection[str]) -> None:
    for name in options:
        if name not in known:
            near = did_you_mean(get_close_matches(name, known, n=1))
            raise TypeError(f"{method}() got an unexpected keyword argument '{name}'{near}")


def _by_name(
    method: str, order: Sequence[str], given: Sequence[Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a call by name; TypeErrors are Python's own."""
    if len(given) > len(order):
        raise TypeError(
            f"{method}() takes at most {len(order) + 1} positional arguments but "
            f"{len(given) + 1} were given"
        )
    named = dict(zip(order, given, strict=False))
    if twice := sorted(named.keys() & options.keys()):
        raise TypeError(f"{method}() got multiple values for argument '{twice[0]}'")
    return {**named, **options}
