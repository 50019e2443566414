"""llama-cpp-python's signatures: names, order and defaults of parameters.

The methods of ``Llama`` take what they use by name. ``like`` lets callers give arguments by
position, too, in llama-cpp-python's order, and shows its parameters to ``inspect.signature``, which
some programs ask for what they may set.

Source: llama_cpp/llama.py of llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
NO_STOPS: list[str] = []

# the functions with a bar before their names are signatures, nothing else


def _constructor(
    self: Any, model_path: Any, *, n_gpu_layers: Any = 0, split_mode: Any = 1, main_gpu: Any = 0,
    tensor_split: Any = None, vocab_only: Any = False, use_mmap: Any = True,
    use_mlock: Any = False, kv_overrides: Any = None, seed: Any = 0xFFFFFFFF, n_ctx: Any = 512,
    n_batch: Any = 512, n_ubatch: Any = 512, n_threads: Any = None, n_threads_batch: Any = None,
    rope_scaling_type: Any = -1, pooling_type: Any = -1, attention_type: Any = -1,
    rope_freq_base: Any = 0.0, rope_freq_scale: Any = 0.0, yarn_ext_factor: Any = -1.0,
    yarn_attn_factor: Any = 1.0, yarn_beta_fast: Any = 32.0, yarn_beta_slow: Any = 1.0,
    yarn_orig_ctx: Any = 0, logits_all: Any = False, embedding: Any = False,
    offload_kqv: Any = True, flash_attn: Any = False, op_offload: Any = None,
    swa_full: Any = None, no_perf: Any = False, last_n_tokens_size: Any = 64,
    lora_base: Any = None, lora_scale: Any = 1.0, lora_path: Any = None, numa: Any = False,
    chat_format: Any = None, chat_handler: Any = None, draft_model: Any = None,
    tokenizer: Any = None, type_k: Any = None, type_v: Any = None, spm_infill: Any = False,
    verbose: Any = True, cluster: Any = None, **kwargs: Any,
) -> None: ...  # fmt: skip


def _completion(
    self: Any, prompt: Any, suffix: Any = None, max_tokens: Any = 16, temperature: Any = 0.8,
    top_p: Any = 0.95, min_p: Any = 0.05, typical_p: Any = 1.0, logprobs: Any = None,
    echo: Any = False, stop: Any = NO_STOPS, frequency_penalty: Any = 0.0,
    presence_penalty: Any = 0.0, repeat_penalty: Any = 1.0, top_k: Any = 40, stream: Any = False,
    seed: Any = None, tfs_z: Any = 1.0, mirostat_mode: Any = 0, mirostat_tau: Any = 5.0,
    mirostat_eta: Any = 0.1, model: Any = None, stopping_criteria: Any = None,
    logits_processor: Any = None, grammar: Any = None, logit_bias: Any = None,
) -> Any: ...  # fmt: skip


def _chat(
    self: Any, messages: Any, functions: Any = None, function_call: Any = None, tools: Any = None,
    tool_choice: Any = None, temperature: Any = 0.2, top_p: Any = 0.95, top_k: Any = 40,
    min_p: Any = 0.05, typical_p: Any = 1.0, stream: Any = False, stop: Any = NO_STOPS,
    seed: Any = None, response_format: Any = None, max_tokens: Any = None,
    presence_penalty: Any = 0.0, frequency_penalty: Any = 0.0, repeat_penalty: Any = 1.0,
    tfs_z: Any = 1.0, mirostat_mode: Any = 0, mirostat_tau: Any = 5.0, mirostat_eta: Any = 0.1,
    model: Any = None, logits_processor: Any = None, grammar: Any = None, logit_bias: Any = None,
    logprobs: Any = None, top_logprobs: Any = None,
) -> Any: ...  # fmt: skip


def _generate(
    self: Any, tokens: Any, top_k: Any = 40, top_p: Any = 0.95, min_p: Any = 0.05,
    typical_p: Any = 1.0, temp: Any = 0.8, repeat_penalty: Any = 1.0, reset: Any = True,
    frequency_penalty: Any = 0.0, presence_penalty: Any = 0.0, tfs_z: Any = 1.0,
    mirostat_mode: Any = 0, mirostat_tau: Any = 5.0, mirostat_eta: Any = 0.1,
    penalize_nl: Any = True, logits_processor: Any = None, stopping_criteria: Any = None,
    grammar: Any = None,
) -> Any: ...  # fmt: skip


def _sample(
    self: Any, top_k: Any = 40, top_p: Any = 0.95, min_p: Any = 0.05, typical_p: Any = 1.0,
    temp: Any = 0.8, repeat_penalty: Any = 1.0, frequency_penalty: Any = 0.0,
    presence_penalty: Any = 0.0, tfs_z: Any = 1.0, mirostat_mode: Any = 0,
    mirostat_eta: Any = 0.1, mirostat_tau: Any = 5.0, penalize_nl: Any = True,
    logits_processor: Any = None, grammar: Any = None, idx: Any = None,
) -> Any: ...  # fmt: skip


CONSTRUCTOR = inspect.signature(_constructor)
COMPLETION = inspect.signature(_completion)
CHAT = inspect.signature(_chat)
GENERATE = inspect.signature(_generate)
SAMPLE = inspect.signature(_sample)
_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def like(signature: Signature) -> Callable[[F], F]:
    """Return a decorator of a method that takes its options by name.

    Args:
        signature: Parameters in the order in which they may be given by position. What is left
            out is not passed on, so that a default is decided in one place.
    """
    order = [p.name for p in signature.parameters.values() if p.kind in _POSITIONAL][1:]

    def decorate(method: F) -> F:
        @functools.wraps(method)
        def call(self: Any, /, *given: Any, **options: Any) -> Any:
            return method(self, **_by_name(method.__name__, order, given, options))

        vars(call)["__signature__"] = _shown(signature, inspect.signature(method))
        return call  # type: ignore[return-value]

    return decorate


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


def _shown(peer: Signature, own: Signature) -> Signature:
    """Return the peer's parameters, then those of ours that it lacks, by keyword."""
    more = [
        p.replace(kind=Parameter.KEYWORD_ONLY) if p.kind in _POSITIONAL else p
        for p in own.parameters.values()
        if p.name not in peer.parameters
    ]
    return peer.replace(parameters=[*peer.parameters.values(), *more])
