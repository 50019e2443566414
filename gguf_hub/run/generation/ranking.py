"""Prompts of a reranker: a query and a document as one text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gguf_hub.gguf.metadata import Metadata, or_none
from gguf_hub.run.generation.chat import as_literal
from gguf_hub.run.tokenizer import Tokenizer

_TEMPLATE = "tokenizer.chat_template.rerank"
_FIELD = re.compile(r"\{(query|document)\}")


def rerank_template(metadata: Mapping[str, Any]) -> str | None:
    """Return a file's template of a pair, with ``{query}`` and ``{document}``; None without."""
    return or_none(Metadata.of(metadata).text, _TEMPLATE)


def encode_pair(tokenizer: Tokenizer, template: str | None, query: str, document: str) -> list[int]:
    """Return the token ids of a query and a document.

    Control tokens that are written in them stay text. Without a template: begin, query, end,
    separator, document, end, of these marks those that the vocabulary adds.

    Source: ``format_prompt_rerank`` in tools/server/server-common.cpp of llama.cpp.
    """
    if template is not None:
        texts = {"query": query, "document": document}
        control_texts = tokenizer.vocab.control_texts
        prompt = _FIELD.sub(lambda match: as_literal(texts[match[1]], control_texts), template)
        return tokenizer.encode(prompt, add_bos=False, parse_special=True)
    vocab = tokenizer.vocab
    begin = [vocab.bos_id] if vocab.add_bos else []
    end = [vocab.sep_id if vocab.eos_id is None else vocab.eos_id] if vocab.add_eos else []
    between = [*end, vocab.sep_id] if vocab.add_sep else end
    first, second = (tokenizer.encode(text, add_bos=False) for text in (query, document))
    return [i for i in (*begin, *first, *between, *second, *end) if i is not None]
