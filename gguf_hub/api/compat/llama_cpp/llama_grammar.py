"""``llama_cpp.llama_grammar``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gguf_hub.api.compat.llama_cpp.unavailable import function
from gguf_hub.api.llama import LlamaGrammar
from gguf_hub.run.grammar import Grammar

__all__ = ["LlamaGrammar", "Path", "SchemaConverter", "json_schema_to_gbnf"]

SchemaConverter = function(
    "llama_grammar.SchemaConverter", "schemas are converted in another way",
    "use `llama_grammar.json_schema_to_gbnf` or `LlamaGrammar.from_json_schema`",
)  # fmt: skip

_JSON_TYPES = {"JSON_GBNF": "object", "JSON_ARR_GBNF": "array"}
_EXAMPLES = frozenset({
    "ARITHMETIC_GBNF", "CHESS_GBNF", "C_GBNF", "JAPANESE_GBNF", "LIST_GBNF",
})  # fmt: skip


def json_schema_to_gbnf(schema: str, prop_order: Sequence[str] | None = None) -> str:
    """Return the GBNF of JSON that satisfies a schema.

    Args:
        schema: The schema, as JSON text.
        prop_order: Ignored: members stand in the order of the schema.

    Raises:
        GrammarError: The schema is wrong.
    """
    return Grammar.from_schema(schema, strict=False).to_gbnf()


def __getattr__(name: str) -> Any:
    """Return the grammar of any JSON object or array, which is made when it is asked for."""
    if name in _JSON_TYPES:
        return json_schema_to_gbnf(json.dumps({"type": _JSON_TYPES[name]}))
    if name in _EXAMPLES:
        raise AttributeError(
            f"`llama_cpp.llama_grammar.{name}` is not there: gguf-hub has none of llama.cpp's "
            "example grammars; `LlamaGrammar.from_file` reads them from its folder `grammars`"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
