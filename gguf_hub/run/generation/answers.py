"""Answers as dictionaries: OpenAI's shapes, with llama-cpp-python's keys in its order."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gguf_hub.run.generation.logits_sampler import TokenLogprob
from gguf_hub.run.tokenizer import Tokenizer

Answer = dict[str, Any]


@dataclass(frozen=True)
class Head:
    """What every part of one answer repeats."""

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
    """Return what an answer has cost."""
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_completion,
        "total_tokens": n_prompt + n_completion,
    }


def text_choice(
    text: str, *, index: int = 0, logprobs: Answer | None = None, finish_reason: str | None = None
) -> Answer:
    """Return one choice of a text completion."""
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish_reason}


def chat_choice(
    message: Answer,
    *,
    index: int = 0,
    logprobs: Answer | None = None,
    finish_reason: str | None = None,
) -> Answer:
    """Return one choice of a chat completion."""
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": finish_reason,
    }


def delta_choice(
    delta: Answer,
    *,
    index: int = 0,
    logprobs: Answer | None = None,
    finish_reason: str | None = None,
) -> Answer:
    """Return one choice of a chunk of a chat completion."""
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}


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


def piece_text(tokenizer: Tokenizer, token_id: int) -> str:
    """Return what one token prints, without bytes that are part of a character."""
    return tokenizer.token_bytes(token_id).decode("utf-8", errors="ignore")


def text_logprobs(chances: Iterable[TokenLogprob | None], tokenizer: Tokenizer, offset: int,
                  token_ids: Sequence[int] = ()) -> Answer:  # fmt: skip
    """Return log probabilities of tokens in the shape of text completions.

    Args:
        chances: Of each token; None for one of which nothing is known, the first of a text.
        tokenizer: The model's.
        offset: Where the first token's text begins.
        token_ids: The tokens, needed where a chance is None.
    """
    found: Answer = {"tokens": [], "text_offset": [], "token_logprobs": [], "top_logprobs": []}
    for i, chance in enumerate(chances):
        text = piece_text(tokenizer, token_ids[i] if chance is None else chance.token_id)
        found["tokens"].append(text)
        found["text_offset"].append(offset)
        found["token_logprobs"].append(None if chance is None else chance.logprob)
        found["top_logprobs"].append(None if chance is None else _top(chance, tokenizer))
        offset += len(text)
    return found


def _top(chance: TokenLogprob, tokenizer: Tokenizer) -> dict[str, float]:
    top: dict[str, float] = {}
    for token_id, logprob in chance.top:
        top.setdefault(piece_text(tokenizer, token_id), logprob)
    top[piece_text(tokenizer, chance.token_id)] = chance.logprob
    return top


def chat_logprobs(chances: Iterable[TokenLogprob], tokenizer: Tokenizer) -> Answer:
    """Return log probabilities of tokens in the shape of chat completions."""

    def entry(token_id: int, logprob: float) -> Answer:
        data = tokenizer.token_bytes(token_id)
        return {
            "token": piece_text(tokenizer, token_id),
            "bytes": list(data),
            "logprob": logprob,
        }

    return {
        "content": [
            {**entry(c.token_id, c.logprob), "top_logprobs": [entry(*top) for top in c.top]}
            for c in chances
        ],
        "refusal": None,
    }
