"""Ask llama-cpp-python what it answers; run by hand, in an environment that has it:

python tests/api/llama/make_reference.py MODEL > tests/api/llama/llama_cpp_python.json
"""

from __future__ import annotations

import json
import sys
from typing import Any

GREEDY: dict[str, Any] = {"temperature": 0}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"sunny": {"type": "boolean"}},
            "required": ["sunny"],
        },
    },
}
OTHER_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"enum": [1, 2]}},
    "required": ["name", "age"],
}
CALLS: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "200 tokens": ("create_completion", ["Once upon a time"], {**GREEDY, "max_tokens": 200}),
    "defaults": ("__call__", ["Lily and Tom"], GREEDY),
    "stop text": ("create_completion", ["Once upon"], {**GREEDY, "stop": ["there"]}),
    "stop text first": ("create_completion", ["Once"], {**GREEDY, "stop": " upon"}),
    "echo": ("create_completion", ["Tom went"], {**GREEDY, "echo": True, "max_tokens": 5}),
    "tokens": ("create_completion", [[1, 403, 407]], {**GREEDY, "max_tokens": 5}),
    "logprobs": (
        "create_completion", ["Once"], {**GREEDY, "logprobs": 2, "max_tokens": 5},
    ),
    "echo and logprobs": (
        "create_completion",
        ["Once upon"],
        {**GREEDY, "logprobs": 2, "max_tokens": 4, "echo": True},
    ),
    "repeat penalty": (
        "create_completion",
        ["Once upon a time"],
        {**GREEDY, "repeat_penalty": 1.3, "max_tokens": 60},
    ),
    "frequency and presence": (
        "create_completion",
        ["Once upon a time"],
        {**GREEDY, "frequency_penalty": 0.7, "presence_penalty": 0.5, "max_tokens": 60},
    ),
    "seed": ("create_completion", ["Tom and"], {"seed": 7, "max_tokens": 60}),
    "seed, warm": (
        "create_completion", ["Once"], {"seed": 8, "temperature": 1.4, "max_tokens": 40},
    ),
    "seed, min p": ("create_completion", ["Lily"], {"seed": 3, "min_p": 0.2, "max_tokens": 40}),
    "seed, nothing off": (
        "create_completion",
        ["The"],
        {"seed": 11, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "max_tokens": 40},
    ),
    "logit bias": (
        "create_completion", ["Once"], {**GREEDY, "logit_bias": {"407": -100}, "max_tokens": 8},
    ),
    "full context": ("create_completion", ["Once"], {**GREEDY, "max_tokens": None}),
    "chat": (
        "create_chat_completion",
        [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]],
        {**GREEDY, "max_tokens": 12},
    ),
    "tool": (
        "create_chat_completion",
        [[{"role": "user", "content": "Hi"}]],
        {
            **GREEDY,
            "tools": [TOOL],
            "tool_choice": {"type": "function", "function": {"name": "weather"}},
        },
    ),
    "tokenize": ("tokenize", ["Once upon a time, <s>"], {}),
    "tokenize special": ("tokenize", ["Hi</s>"], {"add_bos": False, "special": True}),
}  # fmt: skip
QUARTER: dict[str, Any] = {"rope_freq_scale": 0.25}
ROPE: dict[str, dict[str, Any]] = {
    "linear": {**QUARTER, "rope_scaling_type": 1},
    "the model's scaling": QUARTER,
    "none": {**QUARTER, "rope_scaling_type": 0},
    "base": {"rope_freq_base": 50000.0},
    "yarn": {**QUARTER, "rope_scaling_type": 2},
    "yarn, original context": {**QUARTER, "rope_scaling_type": 2, "yarn_orig_ctx": 32},
    "yarn, half of it": {**QUARTER, "rope_scaling_type": 2, "yarn_ext_factor": 0.5},
    "yarn, attention": {
        **QUARTER, "rope_scaling_type": 2, "yarn_ext_factor": 0.0, "yarn_attn_factor": 1.3,
    },
    "yarn, attention without effect": {
        **QUARTER, "rope_scaling_type": 2, "yarn_attn_factor": 1.3,
    },
    "yarn, betas": {
        **QUARTER, "rope_scaling_type": 2, "yarn_beta_fast": 8.0, "yarn_beta_slow": 0.5,
    },
}  # fmt: skip
ROPE_CALL: dict[str, Any] = {**GREEDY, "logprobs": 0, "max_tokens": 16, "echo": True}


def main() -> None:
    import llama_cpp

    model = llama_cpp.Llama(sys.argv[1], n_ctx=256, verbose=False, logits_all=True)
    results = {}
    for name, (method, arguments, options) in CALLS.items():
        if method == "tokenize":
            arguments = [arguments[0].encode()]
        answer = getattr(model, method)(*arguments, **options)
        if isinstance(answer, dict):
            answer = {**answer, "id": "", "created": 0, "model": ""}
        results[name] = answer
    embedder = llama_cpp.Llama(
        sys.argv[1], n_ctx=256, verbose=False, embedding=True, pooling_type=1
    )
    results["embedding"] = {
        **embedder.create_embedding(["Once upon a time", "Tom"]),
        "model": "",
    }
    for name, settings in ROPE.items():
        model = llama_cpp.Llama(sys.argv[1], n_ctx=256, verbose=False, logits_all=True, **settings)
        choice = model.create_completion("Once upon a time", **ROPE_CALL)["choices"][0]
        results[f"rope: {name}"] = [choice["text"], choice["logprobs"]["token_logprobs"]]
    print(json.dumps({"version": llama_cpp.__version__, "results": results}, default=float,
                     indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
