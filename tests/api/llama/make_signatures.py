"""Ask llama-cpp-python for its signatures; run by hand, in an environment that has it:

python tests/api/llama/make_signatures.py > tests/api/llama/signatures.json
"""

from __future__ import annotations

import inspect
import json
from typing import Any

METHODS = (
    "__init__", "__call__", "create_completion", "create_chat_completion", "generate", "sample",
    "tokenize", "detokenize", "embed", "create_embedding", "from_pretrained", "eval",
)  # fmt: skip


def signature(method: Any) -> list[list[Any]]:
    """Return name, default (as text) and, where it is not the usual one, kind of parameters."""
    rows = []
    for p in inspect.signature(method).parameters.values():
        row = [p.name, None if p.default is p.empty else repr(p.default)]
        rows.append(row if p.kind is p.POSITIONAL_OR_KEYWORD else [*row, p.kind.name])
    return rows


def main() -> None:
    import llama_cpp

    rows = [f"{json.dumps(name)}: {json.dumps(signature(getattr(llama_cpp.Llama, name)))}"
            for name in METHODS]  # fmt: skip
    print("{\n" + ",\n".join(rows) + "\n}")


if __name__ == "__main__":
    main()
