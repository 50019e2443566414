"""Answers as Anthropic's messages, whole and streamed."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from typing import Any

from gguf_hub.api.server.replies import error_body
from gguf_hub.run.generation import Generation
from gguf_hub.run.generation.answers import warned
from gguf_hub.run.generation.logits_sampler import TokenLogprob
from gguf_hub.run.generation.parts import CallDelta, Part, ReasoningDelta

PATH = "/v1/messages"

Chunk = dict[str, Any]

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessageBuilder:
    """Makes a message of the parts of an answer; see ``conversations.Builder``.

    Args:
        model: Its name, as the client wrote it.
        generation: The text.
        stops: The client's stop sequences.
        hides_thinking: Whether to send reasoning without its text.
    """

    def __init__(
        self,
        model: str,
        generation: Generation,
        *,
        stops: Sequence[str] = (),
        hides_thinking: bool = False,
    ) -> None:
        self._model, self._generation, self._stops = model, generation, stops
        self._hides_thinking = hides_thinking
        self._warnings = generation.request.warnings
        self._content: list[Chunk] = []
        self._arguments = ""  # of the last block, if it is a call
        self._call_index = -1
        self._id = f"msg_{uuid.uuid4().hex}"
        self._end: Chunk = {"stop_reason": None, "stop_sequence": None}
        self._usage = self._count(0, 0)

    def begin(self) -> list[Chunk]:
        """Return the start of the message, and a ping: the prompt may take long."""
        return [{"type": "message_start", "message": self.answer()}, *self.idle()]

    def add(self, part: Part, logprobs: Sequence[TokenLogprob]) -> list[Chunk]:
        """Return the deltas of a part, and the start of its block if it is new."""
        if isinstance(part, CallDelta):
            return self._add_call(part)
        if isinstance(part, str):
            chunks = self._open("text", {"type": "text", "text": ""})
            self._content[-1]["text"] += part
            return [*chunks, self._delta({"type": "text_delta", "text": part})]
        return self._add_thinking(part)

    def idle(self) -> list[Chunk]:
        """Return a ping."""
        return [{"type": "ping"}]

    def finish(self, reason: str, n_reasoning: int) -> list[Chunk]:
        """Return the end of the message."""
        text = self._generation.stop_text
        is_stop = text in self._stops and reason == "stop"
        stop_reason = "stop_sequence" if is_stop else _STOP_REASONS[reason]
        self._end = {"stop_reason": stop_reason, "stop_sequence": text if is_stop else None}
        self._usage = self._count(self._generation.timings.n_cached, self._generation.n_generated)
        self._usage["output_tokens_details"] = {"thinking_tokens": n_reasoning}
        chunks = self._close()
        delta = {"type": "message_delta", "delta": self._end, "usage": self._usage}
        return [*chunks, {**delta, **warned(self._warnings)}, {"type": "message_stop"}]

    def fail(self, exc: Exception) -> list[Chunk]:
        """Return the event of an error."""
        return [error_body(exc, PATH)]

    def answer(self) -> Chunk:
        """Return the message as it is by now."""
        return {
            "id": self._id, "type": "message", "role": "assistant", "model": self._model,
            "content": self._content.copy(), **self._end, "usage": self._usage,
            **(warned(self._warnings) if self._end["stop_reason"] else {}),
        }  # fmt: skip

    def _add_thinking(self, part: ReasoningDelta) -> list[Chunk]:
        block = {"type": "thinking", "thinking": "", "signature": ""}
        chunks = self._open("thinking", block)
        if self._hides_thinking:
            return chunks
        self._content[-1]["thinking"] += part.text
        return [*chunks, self._delta({"type": "thinking_delta", "thinking": part.text})]

    def _add_call(self, call: CallDelta) -> list[Chunk]:
        chunks: list[Chunk] = []
        if call.index != self._call_index:
            self._call_index = call.index
            block = {"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex}", "name": call.name}
            chunks = self._open(None, {**block, "input": {}})
        self._arguments += call.arguments
        delta = {"type": "input_json_delta", "partial_json": call.arguments}
        return [*chunks, self._delta(delta)]

    def _open(self, kind: str | None, block: Chunk) -> list[Chunk]:
        """Return the end of the last block and the start of another one.

        Args:
            kind: Go on with the last block if it is of this kind.
            block: The other one.
        """
        if kind is not None and self._content and self._content[-1]["type"] == kind:
            return []
        chunks = self._close()
        self._content.append(block)
        start = {"type": "content_block_start", "index": self._index, "content_block": {**block}}
        return [*chunks, start]

    def _close(self) -> list[Chunk]:
        if not self._content:
            return []
        block, chunks = self._content[-1], []
        if block["type"] == "thinking":
            # opaque to clients; some take reasoning without one for incomplete
            block["signature"] = hashlib.sha256(block["thinking"].encode()).hexdigest()
            delta = {"type": "signature_delta", "signature": block["signature"]}
            chunks = [self._delta(delta)]
        elif block["type"] == "tool_use":
            block["input"], self._arguments = _parse(self._arguments), ""
        return [*chunks, {"type": "content_block_stop", "index": self._index}]

    @property
    def _index(self) -> int:
        return len(self._content) - 1

    def _delta(self, delta: Chunk) -> Chunk:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _count(self, n_cached: int, n_generated: int) -> Chunk:
        """Return the usage; tokens of the prompt that were in the cache count apart."""
        return {
            "input_tokens": len(self._generation.request.prompt) - n_cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": n_cached,
            "output_tokens": n_generated,
        }


def _parse(arguments: str) -> Any:
    """Return the arguments of a call; none where ``max_tokens`` has cut them short."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
