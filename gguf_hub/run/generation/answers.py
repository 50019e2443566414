"""Answers as dictionaries: OpenAI's shapes, with llama-cpp-python's keys in its order."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gguf_hub.run.generation.logits_sampler import TokenLogprob
from gguf_hub.run.tokenizer import StreamDecoder, Tokenizer

Answer = dict[str, Any]


@dataclass(frozen=True)
class Head:
    """Fields that every chunk of one answer repeats."""

    model: str
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4()}")
    created: int = field(default_factory=lambda: int(time.time()))

    def text(self, choices: list[Answer], **more: Any) -> Answer:
        """Return a text completion, or a chunk of one."""
        return {"id": self.id, "object": "text_completion", "created": self.created,
                "model": self.model, "choices": choices, **more}  # fmt: skip

    def chat(self, choices: list[Answer], **more: Any) -> Answer:
        """Return a chat completion."""
        return {"id": f"chat{self.id}", "object": "chat.completion", "created": self.created,
                "model": self.model, "choices": choices, **more}  # fmt: skip

    def chat_chunk(self, choices: list[Answer], **more: Any) -> Answer:
        """Return a chunk of a chat completion."""
        return {"id": f"chat{self.id}", "model": self.model, "created": self.created,
                "object": "chat.completion.chunk", "choices": choices, **more}  # fmt: skip


def usage(n_prompt: int, n_completion: int) -> Answer:
    """Return OpenAI's ``usage``."""
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_completion,
        "total_tokens": n_prompt + n_completion,
    }


def warned(warnings: Iterable[str]) -> Answer:
    """Return the field ``warnings`` of an answer, if there are any: our own, not OpenAI's."""
    texts = list(dict.fromkeys(warnings))
    return {"warnings": texts} if texts else {}


def text_choice(
    text: str, *, index: int = 0, logprobs: Answer | None = None, finish_reason: str | None = None
) -> Answer:
    """Return one choice of a text completion."""
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish_reason}


def chat_choice(
    key: Literal["message", "delta"], value: Answer, *,
    index: int = 0, logprobs: Answer | None = None, finish_reason: str | None = None,
) -> Answer:  # fmt: skip
    """Return one choice of a chat completion (``message``), or of a chunk of one (``delta``)."""
    return {"index": index, key: value, "logprobs": logprobs, "finish_reason": finish_reason}


def embeddings(vectors: Sequence[Any], model: str, n_tokens: int) -> Answer:
    """Return embeddings, in order."""
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "embedding": vector, "index": i}
            for i, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
    }


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """Return the text of one token, without the bytes of incomplete characters."""
    return tokenizer.token_bytes(token_id).decode("utf-8", errors="ignore")


def text_logprobs(
    logprobs: Iterable[TokenLogprob | int],
    tokenizer: Tokenizer,
    decoder: StreamDecoder,
    offset: int,
) -> tuple[Answer, int]:
    """Return log probabilities of tokens in the shape of text completions.

    Args:
        logprobs: One per token; its id where it is unknown, as for the first token of a text.
        tokenizer: The model's.
        decoder: Of the same tokens, from the first of the text on.
        offset: Characters before the first token.

    Returns:
        The answer, and the characters before the token that comes next. A character of several
        tokens counts with the last of them, whose texts are empty.
    """
    answer: Answer = {"tokens": [], "text_offset": [], "token_logprobs": [], "top_logprobs": []}
    for token in logprobs:
        known = token if isinstance(token, TokenLogprob) else None
        token_id = token.token_id if isinstance(token, TokenLogprob) else token
        answer["tokens"].append(token_text(tokenizer, token_id))
        answer["text_offset"].append(offset)
        answer["token_logprobs"].append(known and known.logprob)
        answer["top_logprobs"].append(known and _top(known, tokenizer))
        offset += len(decoder.feed(token_id))
    return answer, offset


def _top(token: TokenLogprob, tokenizer: Tokenizer) -> dict[str, float]:
    top: dict[str, float] = {}
    for token_id, logprob in token.top:
        top.setdefault(token_text(tokenizer, token_id), logprob)
    text = token_text(tokenizer, token.token_id)  # parts of characters may share their text
    top[text] = max(top.get(text, token.logprob), token.logprob)
    return top


def chat_logprobs(logprobs: Iterable[TokenLogprob], tokenizer: Tokenizer) -> Answer:
    """Return log probabilities of tokens in the shape of chat completions."""
    return {"content": token_entries(logprobs, tokenizer), "refusal": None}


def token_entries(
    logprobs: Iterable[TokenLogprob],
    tokenizer: Tokenizer,
    *,
    has_ids: bool = False,
    as_probs: bool = False,
) -> list[Answer]:
    """Return text, bytes and log probability of tokens and their alternatives.

    Args:
        logprobs: The tokens.
        tokenizer: The model's.
        has_ids: With their ids.
        as_probs: With ``prob`` and ``top_probs`` instead of logarithms, as llama-server has them.
    """
    alternatives = "top_probs" if as_probs else "top_logprobs"

    def entry(token_id: int, logprob: float) -> Answer:
        ids = {"id": token_id} if has_ids else {}
        value = {"prob": math.exp(logprob)} if as_probs else {"logprob": logprob}
        return {**ids, "token": token_text(tokenizer, token_id),
                "bytes": list(tokenizer.token_bytes(token_id)), **value}  # fmt: skip

    return [
        {**entry(token.token_id, token.logprob), alternatives: [entry(*top) for top in token.top]}
        for token in logprobs
    ]
