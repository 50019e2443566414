"""JSON schemas as grammars.

Every text of the grammar is JSON that satisfies the schema; the grammar may leave out some that
would satisfy it too: properties come in the order of the schema, undeclared ones beside them only
where ``additionalProperties`` allows them, numbers have few digits. What a grammar cannot hold is
refused, or left out and listed on request.
"""

from __future__ import annotations

from gguf_hub.run.grammar.schema.converter import LeftOut, schema_to_rules

__all__ = ["LeftOut", "schema_to_rules"]
