"""llama-cpp-python's ``LlamaGrammar``."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from gguf_hub.errors import GrammarError
from gguf_hub.run.grammar import Grammar


class LlamaGrammar:
    """GBNF text, checked when it is made.

    Raises:
        GrammarError: With line and column of what is wrong.
    """

    def __init__(self, *args: Any, _grammar: str, **kwargs: Any) -> None:
        Grammar.from_gbnf(_grammar)
        self._grammar = _grammar
        self._root = "root"

    @property
    def text(self) -> str:
        """The GBNF."""
        return self._grammar

    @classmethod
    def from_string(cls, grammar: str, verbose: bool = True) -> LlamaGrammar:
        """Return the grammar of a GBNF text."""
        return cls(_grammar=grammar)

    @classmethod
    def from_file(cls, file: str | os.PathLike[str], verbose: bool = True) -> LlamaGrammar:
        """Return the grammar of a GBNF file."""
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise GrammarError(f"cannot read grammar file `{file}`: {exc}") from exc
        return cls.from_string(text, verbose=verbose)

    @classmethod
    def from_json_schema(cls, json_schema: str, verbose: bool = True) -> LlamaGrammar:
        """Return the grammar of JSON that satisfies a schema, given as JSON text.

        Args:
            json_schema: The schema.
            verbose: Warn of what the grammar does not hold.
        """
        grammar = Grammar.from_schema(json_schema, strict=False)
        for item in grammar.left_out if verbose else ():
            warnings.warn(f"LlamaGrammar: {item}", UserWarning, stacklevel=2)
        return cls(_grammar=grammar.to_gbnf())
