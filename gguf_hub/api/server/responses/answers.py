"""Answers as OpenAI's responses, whole and streamed."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from gguf_hub.api.server.replies import error_body
from gguf_hub.api.server.responses.bodies import ResponsesBody
from gguf_hub.run.generation import Generation
from gguf_hub.run.generation.answers import token_entries, warned
from gguf_hub.run.generation.logits_sampler import TokenLogprob
from gguf_hub.run.generation.parts import CallDelta, Part, ReasoningDelta
from gguf_hub.run.tokenizer import Tokenizer

Chunk = dict[str, Any]


class ResponseBuilder:
    """Makes a response of the parts of an answer; see ``conversations.Builder``.

    Args:
        body: The request.
        model: The model's name.
        generation: The text.
        tokenizer: The model's.
        warnings: What was asked for and is not held.
        store: Called with the response at its end.
    """

    def __init__(
        self,
        body: ResponsesBody,
        model: str,
        generation: Generation,
        tokenizer: Tokenizer,
        *,
        warnings: Sequence[str] = (),
        store: Callable[[Chunk], None] = lambda response: None,
    ) -> None:
        self._body, self._generation, self._tokenizer = body, generation, tokenizer
        self._warnings = [*warnings, *generation.request.warnings]
        self._store = store
        self._n_events = 0
        self._call_index = -1
        self._output: list[Chunk] = []
        self._head = _head(body, model)
        self._end: Chunk = {"status": "in_progress", "usage": None}

    def begin(self) -> list[Chunk]:
        """Return the start of the response."""
        return [self._event("created"), self._event("in_progress")]

    def add(self, part: Part, logprobs: Sequence[TokenLogprob]) -> list[Chunk]:
        """Return the deltas of a part, and the start of its item if it is new."""
        if isinstance(part, CallDelta):
            return self._add_call(part)
        if isinstance(part, ReasoningDelta):
            return self._add_text("reasoning", part.text)
        entries = token_entries(logprobs, self._tokenizer) if self._body.has_logprobs else []
        return self._add_text("message", part, entries)

    def idle(self) -> list[Chunk]:
        """Return the event that says so: clients give up after minutes without any."""
        return [self._event("in_progress")]

    def finish(self, reason: str, n_reasoning: int) -> list[Chunk]:
        """Return the end of the response."""
        is_cut = reason == "length"
        status = "incomplete" if is_cut else "completed"
        chunks = self._close(status)
        self._end = {"status": status, "usage": self._usage(n_reasoning)}
        if is_cut:
            self._end["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self._end["completed_at"] = int(time.time())
        self._end |= warned(self._warnings)
        self._store(self.answer())
        return [*chunks, self._event(status)]

    def fail(self, exc: Exception) -> list[Chunk]:
        """Return the event of an error."""
        body = error_body(exc)["error"]
        code = "rate_limit_exceeded" if body["code"] == 429 else "server_error"
        error = {"code": code, "message": body["message"]}
        self._end = {"status": "failed", "error": error, "usage": None}
        return [self._event("failed")]

    def answer(self) -> Chunk:
        """Return the response as it is by now."""
        return {**self._head, "output": [{**item} for item in self._output], **self._end}

    # -- items -----------------------------------------------------------------------------------

    def _add_text(self, kind: str, text: str, entries: Sequence[Any] = ()) -> list[Chunk]:
        chunks: list[Chunk] = []
        if not self._output or self._output[-1]["type"] != kind:
            chunks = self._open(_ITEMS[kind]())
            self._output[-1]["content"] = [_PARTS[kind]()]
            chunks.append(self._part_event("content_part.added", part=_PARTS[kind]()))
        part = self._output[-1]["content"][0]
        part["text"] += text
        more = {}
        if kind == "message":
            part["logprobs"] += entries
            more = {"logprobs": entries}
        return [*chunks, self._part_event(f"{part['type']}.delta", delta=text, **more)]

    def _add_call(self, call: CallDelta) -> list[Chunk]:
        chunks: list[Chunk] = []
        if call.index != self._call_index:
            self._call_index = call.index
            chunks = self._open(
                {"id": _new_id("fc"), "type": "function_call", "status": "in_progress",
                 "call_id": _new_id("call"), "name": call.name, "arguments": ""}
            )  # fmt: skip
        self._output[-1]["arguments"] += call.arguments
        delta = self._item_event("function_call_arguments.delta", delta=call.arguments)
        return [*chunks, delta]

    def _open(self, item: Chunk) -> list[Chunk]:
        chunks = self._close("completed")
        self._output.append(item)
        return [*chunks, self._event("output_item.added", item={**item}, **self._place)]

    def _close(self, status: str) -> list[Chunk]:
        """Return the end of the last item."""
        if not self._output:
            return []
        item = self._output[-1]
        item["status"] = status
        if item["type"] == "function_call":
            fields = {"name": item["name"], "arguments": item["arguments"]}
            chunks = [self._item_event("function_call_arguments.done", **fields)]
        else:
            part = item["content"][0]
            more = {"logprobs": part["logprobs"]} if "logprobs" in part else {}
            chunks = [
                self._part_event(f"{part['type']}.done", text=part["text"], **more),
                self._part_event("content_part.done", part=part),
            ]
        return [*chunks, self._event("output_item.done", item={**item}, **self._place)]

    # -- events ----------------------------------------------------------------------------------

    @property
    def _place(self) -> Chunk:
        return {"output_index": len(self._output) - 1}

    def _item_event(self, kind: str, **fields: Any) -> Chunk:
        return self._event(kind, item_id=self._output[-1]["id"], **self._place, **fields)

    def _part_event(self, kind: str, **fields: Any) -> Chunk:
        return self._item_event(kind, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> Chunk:
        """Return an event; one without fields has the response as it is by now."""
        number, self._n_events = self._n_events, self._n_events + 1
        fields = fields or {"response": self.answer()}
        return {"type": f"response.{kind}", "sequence_number": number, **fields}

    def _usage(self, n_reasoning: int) -> Chunk:
        generation = self._generation
        n_prompt, n_generated = len(generation.request.prompt), generation.n_generated
        cached = {"cached_tokens": generation.timings.n_cached, "cache_write_tokens": 0}
        return {
            "input_tokens": n_prompt,
            "input_tokens_details": cached,
            "output_tokens": n_generated,
            "output_tokens_details": {"reasoning_tokens": n_reasoning},
            "total_tokens": n_prompt + n_generated,
        }


def _new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


_ITEMS: dict[str, Callable[[], Chunk]] = {
    "message": lambda: {"id": _new_id("msg"), "type": "message", "status": "in_progress",
                        "role": "assistant", "content": []},
    "reasoning": lambda: {"id": _new_id("rs"), "type": "reasoning", "status": "in_progress",
                          "summary": [], "content": []},
}  # fmt: skip
_PARTS: dict[str, Callable[[], Chunk]] = {
    "message": lambda: {"type": "output_text", "text": "", "annotations": [], "logprobs": []},
    "reasoning": lambda: {"type": "reasoning_text", "text": ""},
}


def _head(body: ResponsesBody, model: str) -> Chunk:
    """Return the fields of a response that repeat its request."""
    names = ("instructions", "max_output_tokens", "metadata", "parallel_tool_calls",
             "previous_response_id", "store", "temperature", "tools", "top_logprobs", "top_p",
             "truncation", "user")  # fmt: skip
    form = body.text.format if body.text else None
    text = form.model_dump(by_alias=True, exclude_none=True) if form else {"type": "text"}
    return {
        "id": _new_id("resp"), "object": "response", "created_at": int(time.time()),
        "model": model, "background": False, "error": None, "incomplete_details": None,
        **{name: getattr(body, name) for name in names},
        "tool_choice": body.tool_choice or "auto",
        "text": {"format": text, "verbosity": (body.text and body.text.verbosity) or "medium"},
        "reasoning": {"effort": body.reasoning and body.reasoning.effort, "summary": None},
    }  # fmt: skip
