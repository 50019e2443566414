"""llama-server's environment variables, for the flags that ``serve`` has.

Source: llama.cpp, tools/server/README.md, the variables named beside the flags.
"""

from __future__ import annotations

import click
from click.core import ParameterSource

VARIABLES = {
    "model_option": "LLAMA_ARG_MODEL", "hf_repo": "LLAMA_ARG_HF_REPO",
    "hf_file": "LLAMA_ARG_HF_FILE", "model_url": "LLAMA_ARG_MODEL_URL",
    "hf_repo_draft": "LLAMA_ARG_SPEC_DRAFT_HF_REPO", "models_dir": "LLAMA_ARG_MODELS_DIR",
    "api_prefix": "LLAMA_ARG_API_PREFIX", "cors_origins": "LLAMA_ARG_CORS_ORIGINS",
    "host": "LLAMA_ARG_HOST", "port": "LLAMA_ARG_PORT", "alias": "LLAMA_ARG_ALIAS",
    "ctx_size": "LLAMA_ARG_CTX_SIZE", "parallel": "LLAMA_ARG_N_PARALLEL",
    "predict": "LLAMA_ARG_N_PREDICT", "batch_size": "LLAMA_ARG_BATCH",
    "threads": "LLAMA_ARG_THREADS", "timeout": "LLAMA_ARG_TIMEOUT",
    "context_shift": "LLAMA_ARG_CONTEXT_SHIFT",
    "chat_template": "LLAMA_ARG_CHAT_TEMPLATE",
    "chat_template_file": "LLAMA_ARG_CHAT_TEMPLATE_FILE",
    "chat_template_kwargs": "LLAMA_ARG_CHAT_TEMPLATE_KWARGS",
    "reasoning": "LLAMA_ARG_REASONING", "reasoning_format": "LLAMA_ARG_THINK",
    "reasoning_effort": "LLAMA_ARG_REASONING_EFFORT",
    "prefill_assistant": "LLAMA_ARG_PREFILL_ASSISTANT",
    "reasoning_budget": "LLAMA_ARG_THINK_BUDGET",
    "reasoning_budget_message": "LLAMA_ARG_THINK_BUDGET_MESSAGE",
    "api_key_file": "LLAMA_ARG_API_KEY_FILE",
    "ssl_key_file": "LLAMA_ARG_SSL_KEY_FILE", "ssl_cert_file": "LLAMA_ARG_SSL_CERT_FILE",
    "models_max": "LLAMA_ARG_MODELS_MAX", "models_autoload": "LLAMA_ARG_MODELS_AUTOLOAD",
    "cache_type_k": "LLAMA_ARG_CACHE_TYPE_K", "cache_type_v": "LLAMA_ARG_CACHE_TYPE_V",
    "swa_full": "LLAMA_ARG_SWA_FULL", "mlock": "LLAMA_ARG_MLOCK", "mmap": "LLAMA_ARG_MMAP",
    "gpu_layers": "LLAMA_ARG_N_GPU_LAYERS", "n_cpu_moe": "LLAMA_ARG_N_CPU_MOE",
    "cpu_moe": "LLAMA_ARG_CPU_MOE", "override_tensor": "LLAMA_ARG_OVERRIDE_TENSOR",
    "device": "LLAMA_ARG_DEVICE", "split_mode": "LLAMA_ARG_SPLIT_MODE",
    "tensor_split": "LLAMA_ARG_TENSOR_SPLIT", "main_gpu": "LLAMA_ARG_MAIN_GPU",
    "rope_scaling": "LLAMA_ARG_ROPE_SCALING_TYPE", "rope_scale": "LLAMA_ARG_ROPE_SCALE",
    "rope_freq_base": "LLAMA_ARG_ROPE_FREQ_BASE", "rope_freq_scale": "LLAMA_ARG_ROPE_FREQ_SCALE",
    "yarn_orig_ctx": "LLAMA_ARG_YARN_ORIG_CTX", "yarn_ext_factor": "LLAMA_ARG_YARN_EXT_FACTOR",
    "yarn_attn_factor": "LLAMA_ARG_YARN_ATTN_FACTOR",
    "yarn_beta_slow": "LLAMA_ARG_YARN_BETA_SLOW", "yarn_beta_fast": "LLAMA_ARG_YARN_BETA_FAST",
    "temp": "LLAMA_ARG_TEMPERATURE", "top_k": "LLAMA_ARG_TOP_K", "top_p": "LLAMA_ARG_TOP_P",
    "min_p": "LLAMA_ARG_MIN_P", "repeat_penalty": "LLAMA_ARG_REPEAT_PENALTY",
    "presence_penalty": "LLAMA_ARG_PRESENCE_PENALTY",
    "frequency_penalty": "LLAMA_ARG_FREQUENCY_PENALTY",
    "pooling": "LLAMA_ARG_POOLING", "reranking": "LLAMA_ARG_RERANKING",
    "slots": "LLAMA_ARG_ENDPOINT_SLOTS", "props": "LLAMA_ARG_ENDPOINT_PROPS",
    "webui": "LLAMA_ARG_UI", "cache_prompt": "LLAMA_ARG_CACHE_PROMPT",
    "log_file": "LLAMA_ARG_LOG_FILE",
    "offline": "LLAMA_ARG_OFFLINE",
}  # fmt: skip
"""Parameter of the command -> variable; an option on the command line comes before it."""

_MODELS = ("model_option", "hf_repo", "hf_file", "model_url", "models_dir")


def read_variables(command: click.Command) -> click.Command:
    """Let the options of a command have their variables, which help and errors name."""
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name in VARIABLES:
            parameter.envvar, parameter.show_envvar = VARIABLES[parameter.name], True
    return command


def drop_variables_of_models(options: dict[str, object]) -> None:
    """Forget a model that a variable names, where the command line names one."""
    context = click.get_current_context()
    source = {name: context.get_parameter_source(name) for name in _MODELS}
    is_named = options["models"] or ParameterSource.COMMANDLINE in source.values()
    for name in _MODELS:
        if is_named and source[name] is ParameterSource.ENVIRONMENT:
            options[name] = None
