"""Output that must follow a grammar: GBNF, and JSON schemas written as GBNF.

The room knows bytes, tokens and masks; the sampler applies the masks.
"""

from __future__ import annotations

from gguf_hub.run.grammar.tokens import Grammar, GrammarVocab, Matcher, TokenGrammar, TokenTrie

__all__ = ["Grammar", "GrammarVocab", "Matcher", "TokenGrammar", "TokenTrie"]
