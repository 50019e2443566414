"""``llama_cpp.llama_grammar``."""

from __future__ import annotations

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
    """Return the grammar of any JSON object, which is made when it is asked for."""
    if name == "JSON_GBNF":
        return json_schema_to_gbnf('{"type": "object"}')
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
