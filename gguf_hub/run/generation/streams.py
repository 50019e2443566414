"""Text deltas as OpenAI answers: text or chat, complete or streamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from gguf_hub.run.generation.answers import (
    Answer,
    Head,
    chat_choice,
    chat_logprobs,
    text_choice,
    text_logprobs,
    warned,
)
from gguf_hub.run.generation.chat import Call, ChatPlan
from gguf_hub.run.generation.generation import TextDelta
from gguf_hub.run.generation.logits_sampler import TokenLogprob
from gguf_hub.run.tokenizer import Tokenizer


class CompletionStream:
    """A text completion, streamed.

    Args:
        head: What every chunk repeats.
        tokenizer: The model's.
        has_logprobs: Whether chunks carry log probabilities.
        offset: Length of the prompt, where the text begins.
        index: Number of this choice.
        warnings: For the last chunk.
    """

    def __init__(
        self,
        head: Head,
        tokenizer: Tokenizer,
        *,
        has_logprobs: bool = False,
        offset: int = 0,
        index: int = 0,
        warnings: Iterable[str] = (),
    ) -> None:
        self._head, self._tokenizer, self._index = head, tokenizer, index
        self._warned = warned(warnings)
        self._has_logprobs, self._offset = has_logprobs, offset

    def chunks(self, delta: TextDelta) -> Iterator[Answer]:
        """Yield the chunks of a delta: its text, and the finish reason by itself."""
        if delta.text or delta.logprobs:
            logprobs = None
            if self._has_logprobs:
                logprobs = text_logprobs(delta.logprobs, self._tokenizer, self._offset)
            self._offset += len(delta.text)
            yield self._head.text([text_choice(delta.text, index=self._index, logprobs=logprobs)])
        if delta.finish_reason is not None:
            end = text_choice("", index=self._index, finish_reason=delta.finish_reason)
            yield self._head.text([end], **self._warned)


class ChatStream:
    """A chat completion, streamed.

    Args:
        head: What every chunk repeats.
        tokenizer: The model's.
        plan: The conversation; the arguments of a required call are streamed.
        has_logprobs: Whether chunks carry log probabilities.
        index: Number of this choice.
        has_legacy_call: Whether to repeat calls under their old name, ``function_call``.
        warnings: For the last chunk.
    """

    def __init__(
        self,
        head: Head,
        tokenizer: Tokenizer,
        plan: ChatPlan,
        *,
        has_logprobs: bool = False,
        index: int = 0,
        has_legacy_call: bool = False,
        warnings: Iterable[str] = (),
    ) -> None:
        self._head, self._tokenizer, self._plan, self._index = head, tokenizer, plan, index
        self._warned = warned(warnings)
        self._has_logprobs, self._has_legacy_call = has_logprobs, has_legacy_call
        self._has_begun = False
        self._pending_call: list[str] = []  # what may be a call, until it is complete
        self._is_call = False
        self._named_calls: set[int] = set()

    def chunks(self, delta: TextDelta) -> Iterator[Answer]:
        """Yield the chunks of a delta; the first one has the role."""
        if not self._has_begun:
            self._has_begun = True
            yield self._chunk({"role": "assistant"})
        logprobs = None
        if self._has_logprobs and delta.logprobs:
            logprobs = chat_logprobs(delta.logprobs, self._tokenizer)
        for message_delta in self._deltas(delta):
            yield self._chunk(message_delta, logprobs=logprobs)
            logprobs = None
        if delta.finish_reason is not None:
            reason = "tool_calls" if self._is_call else delta.finish_reason
            yield {**self._chunk({}, finish_reason=reason), **self._warned}

    def _deltas(self, delta: TextDelta) -> Iterator[Answer]:
        if self._plan.tool is not None:
            self._is_call = True
            if delta.text:
                yield self._call_delta(Call(self._plan.tool, delta.text), 0)
        elif self._plan.tools and (self._pending_call or delta.text.lstrip().startswith("{") or
                                   (self._plan.must_call and delta.text)):  # fmt: skip
            self._pending_call.append(delta.text)
            if delta.finish_reason is not None:
                yield from self._flush_call()
        elif self._pending_call:
            yield from self._flush_call()
        elif delta.text:
            yield {"content": delta.text}

    def _flush_call(self) -> Iterator[Answer]:
        text, self._pending_call = "".join(self._pending_call), []
        calls = self._plan.calls(text)
        self._is_call = bool(calls)
        if not calls:
            yield {"content": text}
        for i, call in enumerate(calls):
            yield self._call_delta(call, i)

    def _call_delta(self, call: Call, i: int) -> Answer:
        """Return part of a call; only the first part has name and id, as clients concatenate."""
        function: Answer = {"arguments": call.arguments}
        part: Answer = {"index": i, "type": "function"}
        if i not in self._named_calls:
            self._named_calls.add(i)
            function = {"name": call.name, **function}
            part["id"] = call_id(self._head, call.name, i)
        part["function"] = function
        delta: Answer = {"tool_calls": [part]}
        if self._has_legacy_call:
            delta["function_call"] = function
        return delta

    def _chunk(self, delta: Answer, **fields: Any) -> Answer:
        return self._head.chat_chunk([chat_choice("delta", delta, index=self._index, **fields)])


def chat_answer_choice(
    head: Head,
    plan: ChatPlan,
    text: str,
    finish_reason: str,
    *,
    index: int = 0,
    logprobs: Answer | None = None,
    has_legacy_call: bool = False,
) -> Answer:
    """Return the complete answer of a conversation as one choice."""
    calls = plan.calls(text)
    message: Answer = {"role": "assistant", "content": None if calls else text}
    if calls:
        if has_legacy_call:
            message["function_call"] = {"name": calls[0].name, "arguments": calls[0].arguments}
        message["tool_calls"] = [
            {
                "id": call_id(head, call.name, i),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for i, call in enumerate(calls)
        ]
        finish_reason = "tool_calls"
    return chat_choice("message", message, index=index, logprobs=logprobs,
                       finish_reason=finish_reason)  # fmt: skip


def call_id(head: Head, name: str, i: int) -> str:
    """Return the id of a call."""
    return f"call__{i}_{name}_{head.id}"


def gather(deltas: Iterable[TextDelta]) -> tuple[str, tuple[TokenLogprob, ...], str]:
    """Return text, log probabilities and finish reason of a text from its deltas."""
    texts: list[str] = []
    logprobs: list[TokenLogprob] = []
    reason = "stop"
    for delta in deltas:
        texts.append(delta.text)
        logprobs += delta.logprobs
        reason = delta.finish_reason or reason
    return "".join(texts), tuple(logprobs), reason
