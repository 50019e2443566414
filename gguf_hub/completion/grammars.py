"""Grammars on one vocabulary, kept: masks that one request has cost serve the next."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from typing import Any

from gguf_hub.grammar import Grammar, GrammarVocab, Matcher, TokenGrammar, TokenTrie

_MAX_GRAMMARS = 16

JSON_OBJECT: dict[str, Any] = {"type": "object"}
"""The schema of any JSON object."""


class GrammarBook:
    """Makes matchers for one vocabulary; threads may share it.

    Args:
        vocab: The model's tokenizer.
    """

    def __init__(self, vocab: GrammarVocab) -> None:
        self._vocab = vocab
        self._trie: TokenTrie | None = None
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], TokenGrammar] = OrderedDict()

    def gbnf(self, text: str, root: str = "root") -> Matcher:
        """Return a matcher of a GBNF text, at its start.

        Raises:
            GrammarError: With line and column of what is wrong.
        """
        return self._matcher((root, text), lambda: Grammar.from_gbnf(text, root))

    def schema(self, schema: Any, *, strict: bool = False) -> Matcher:
        """Return a matcher of JSON that satisfies a schema, at its start.

        Args:
            schema: As data or as JSON text.
            strict: Refuse what a grammar cannot hold, rather than leave it out.

        Raises:
            GrammarError: The schema is wrong or cannot be satisfied.
        """
        text = schema if isinstance(schema, str) else json.dumps(schema, sort_keys=False)
        return self._matcher(
            ("schema, strict" if strict else "schema", text),
            lambda: Grammar.from_schema(schema, strict=strict),
        )

    def _matcher(self, key: tuple[str, str], make: Any) -> Matcher:
        with self._lock:
            known = self._known.get(key)
            if known is None:
                self._trie = self._trie or TokenTrie(self._vocab)
                known = self._known[key] = TokenGrammar(make(), self._trie)
                if len(self._known) > _MAX_GRAMMARS:
                    self._known.popitem(last=False)
            self._known.move_to_end(key)
            return known.matcher()
