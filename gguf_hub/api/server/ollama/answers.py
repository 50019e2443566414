"""Answers as Ollama's, whole and streamed: of ``/api/chat`` and of ``/api/generate``."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

from gguf_hub.api.server.replies import error_body
from gguf_hub.run.generation import Generation
from gguf_hub.run.generation.answers import token_entries, warned
from gguf_hub.run.generation.logits_sampler import TokenLogprob
from gguf_hub.run.generation.parts import CallDelta, Part, ReasoningDelta
from gguf_hub.run.tokenizer import Tokenizer

PATH = "/api/chat"

Chunk = dict[str, Any]


def chat_chunk(content: str, thinking: str, calls: Sequence[Chunk]) -> Chunk:
    """Return what ``/api/chat`` says of a part of an answer."""
    message: Chunk = {"role": "assistant", "content": content}
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = list(calls)
    return {"message": message}


def text_chunk(content: str, thinking: str, calls: Sequence[Chunk]) -> Chunk:
    """Return what ``/api/generate`` says of a part of an answer, which has no calls."""
    return {"response": content, **({"thinking": thinking} if thinking else {})}


def now() -> str:
    """Return the time as Ollama writes it."""
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")


class OllamaBuilder:
    """Makes an answer of its parts; see ``conversations.Builder``.

    Args:
        model: Its name, as the client wrote it.
        generation: The text.
        tokenizer: The model's, for log probabilities; None for none.
        chunk: ``chat_chunk`` or ``text_chunk``.
        start_time: Of the request, by ``time.perf_counter``.
        warnings: What was asked for and is not held.
    """

    def __init__(
        self,
        model: str,
        generation: Generation,
        tokenizer: Tokenizer | None,
        chunk: Callable[[str, str, Sequence[Chunk]], Chunk],
        *,
        start_time: float,
        warnings: Sequence[str] = (),
    ) -> None:
        self._model, self._generation, self._tokenizer = model, generation, tokenizer
        self._chunk, self._start_time = chunk, start_time
        self._warnings = [*warnings, *generation.request.warnings]
        self._content = self._thinking = ""
        self._calls: list[CallDelta] = []
        self._logprobs: list[Chunk] = []
        self._end: Chunk = {"done": False}

    def begin(self) -> list[Chunk]:
        """Return nothing."""
        return []

    def add(self, part: Part, logprobs: Sequence[TokenLogprob]) -> list[Chunk]:
        """Return a line for text; calls are sent whole, at the end."""
        entries = token_entries(logprobs, self._tokenizer) if self._tokenizer else []
        self._logprobs += entries
        if isinstance(part, CallDelta):
            self._add_call(part)
            return []
        content, thinking = ("", part.text) if isinstance(part, ReasoningDelta) else (part, "")
        self._content += content
        self._thinking += thinking
        more = {"logprobs": entries} if entries else {}
        return [self._line(self._chunk(content, thinking, ()), done=False, **more)]

    def idle(self) -> list[Chunk]:
        """Return a line without text: clients give up after minutes without any."""
        return [self._line(self._chunk("", "", ()), done=False)]

    def finish(self, reason: str, n_reasoning: int) -> list[Chunk]:
        """Return the calls, and the line that ends the answer."""
        generation, timings = self._generation, self._generation.timings
        self._end = {
            "done": True,
            "done_reason": "length" if reason == "length" else "stop",
            "total_duration": _ns(time.perf_counter() - self._start_time),
            "load_duration": 0,
            "prompt_eval_count": len(generation.request.prompt),
            "prompt_eval_duration": _ns(timings.prompt_s, len(generation.request.prompt)),
            "eval_count": generation.n_generated,
            "eval_duration": _ns(timings.generate_s, generation.n_generated),
            **warned(self._warnings),
        }
        calls = self._whole_calls()
        lines = [self._line(self._chunk("", "", calls), done=False)] if calls else []
        return [*lines, self._line(self._chunk("", "", ()), **self._end)]

    def fail(self, exc: Exception) -> list[Chunk]:
        """Return the line of an error."""
        return [error_body(exc, PATH)]

    def answer(self) -> Chunk:
        """Return the whole answer."""
        more = {"logprobs": self._logprobs} if self._logprobs else {}
        chunk = self._chunk(self._content, self._thinking, self._whole_calls())
        return self._line(chunk, **self._end, **more)

    def _line(self, chunk: Chunk, **fields: Any) -> Chunk:
        return {"model": self._model, "created_at": now(), **chunk, **fields}

    def _add_call(self, part: CallDelta) -> None:
        if part.index < len(self._calls):
            arguments = self._calls[part.index].arguments + part.arguments
            self._calls[part.index] = CallDelta(part.index, part.name, arguments)
        else:
            self._calls.append(part)

    def _whole_calls(self) -> list[Chunk]:
        """Return the calls; one that the limit has cut short is none, as in Ollama."""
        calls = []
        for call in self._calls:
            try:
                arguments = json.loads(call.arguments)
            except (ValueError, RecursionError):
                continue
            function = {"index": call.index, "name": call.name, "arguments": arguments}
            calls.append({"id": f"call_{uuid.uuid4().hex[:8]}", "function": function})
        return calls


def _ns(seconds: float, n_tokens: int = 0) -> int:
    """Return nanoseconds, at least one where there are tokens: clients divide by them."""
    return max(int(seconds * 1e9), 1 if n_tokens else 0)
