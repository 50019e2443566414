"""Compiled grammars of one vocabulary, so that requests share their token masks."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from gguf_hub.errors import GrammarError
from gguf_hub.resources.freed_memory import return_freed_memory
from gguf_hub.run.grammar import Grammar, GrammarVocab, Matcher, TokenGrammar, TokenTrie

_MAX_GRAMMARS = 16
_MAX_BYTES = 300_000_000

Key = tuple[str, str]

JSON_OBJECT: dict[str, Any] = {"type": "object"}
"""The schema of any JSON object."""


@dataclass(frozen=True)
class OutputConstraint:
    """What an output must follow.

    Attributes:
        matcher: At the start of its grammar; None where any text will do.
        warnings: What was asked for and is not held, a sentence each.
    """

    matcher: Matcher | None = None
    warnings: tuple[str, ...] = ()


class GrammarCache:
    """Makes matchers for one vocabulary; threads may share it.

    A grammar is compiled in the calling thread without a lock: only callers of the same grammar
    wait for it.

    Args:
        vocab: The model's tokenizer.
    """

    def __init__(self, vocab: GrammarVocab) -> None:
        self._vocab = vocab
        self._trie: TokenTrie | None = None
        self._trie_lock = threading.Lock()
        self._lock = threading.Lock()
        self._grammars: OrderedDict[Key, TokenGrammar] = OrderedDict()
        self._pending: dict[Key, Future[TokenGrammar]] = {}

    def constraint(
        self, grammar: str | None, schema: Any = None, *, strict: bool = False
    ) -> OutputConstraint:
        """Return what an output must follow: a grammar, a schema, or nothing.

        Args:
            grammar: GBNF; None or an empty text for none.
            schema: A JSON schema as data or text, or None.
            strict: Refuse what a grammar cannot hold of the schema; otherwise it is a warning.

        Raises:
            GrammarError: There are both, one is wrong, or (strict) it cannot be held.
        """
        if grammar:
            if schema is not None:
                raise GrammarError("expected a grammar or a JSON schema, found both")
            return OutputConstraint(self.gbnf(grammar))
        if schema is None:
            return OutputConstraint()
        matcher = self.schema(schema, strict=strict)
        return OutputConstraint(matcher, tuple(map(str, matcher.left_out)))

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
            strict: Refuse what a grammar cannot hold; otherwise the matcher's ``left_out`` has it.

        Raises:
            GrammarError: The schema is wrong or cannot be satisfied.
        """
        try:
            text = schema if isinstance(schema, str) else json.dumps(schema, sort_keys=False)
        except (TypeError, ValueError, RecursionError) as exc:
            raise GrammarError(f"schema: expected what JSON can hold: {exc}") from exc
        return self._matcher(
            ("schema, strict" if strict else "schema", text),
            lambda: Grammar.from_schema(schema, strict=strict),
        )

    def _matcher(self, key: Key, make: Callable[[], Grammar]) -> Matcher:
        with self._lock:
            grammar = self._grammars.get(key)
            if grammar is not None:
                self._grammars.move_to_end(key)
                return grammar.matcher()
            future = self._pending.get(key)
            own: Future[TokenGrammar] = self._pending.setdefault(key, Future())
        if future is not None:
            return future.result().matcher()
        return self._make(key, make, own).matcher()

    def _make(
        self, key: Key, make: Callable[[], Grammar], own: Future[TokenGrammar]
    ) -> TokenGrammar:
        try:
            grammar = TokenGrammar.ready(make, self._shared_trie())
        except BaseException as exc:
            with self._lock:
                del self._pending[key]
            own.set_exception(exc)
            if isinstance(exc, GrammarError):  # its frames hold all that was half made, 100 MB
                exc.__cause__ = exc.__context__ = exc.__traceback__ = None
                return_freed_memory()
            raise exc  # a bare `raise` would bring the frames back in Python 3.10
        with self._lock:
            del self._pending[key]
            self._grammars[key] = grammar
            self._drop_oldest()
        own.set_result(grammar)
        return grammar

    def _drop_oldest(self) -> None:
        while len(self._grammars) > 1 and (
            len(self._grammars) > _MAX_GRAMMARS
            or sum(grammar.size_bytes for grammar in self._grammars.values()) > _MAX_BYTES
        ):
            self._grammars.popitem(last=False)

    def _shared_trie(self) -> TokenTrie:
        with self._trie_lock:
            if self._trie is None:
                self._trie = TokenTrie(self._vocab)
            return self._trie
