"""Pieces of a run as answers: the four shapes, text or chat, whole or streamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from gguf_hub.run.generation.answers import (
    Answer,
    Head,
    chat_choice,
    chat_logprobs,
    delta_choice,
    text_choice,
    text_logprobs,
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
    """

    def __init__(
        self,
        head: Head,
        tokenizer: Tokenizer,
        *,
        has_logprobs: bool = False,
        offset: int = 0,
        index: int = 0,
    ) -> None:
        self._head, self._tokenizer, self._index = head, tokenizer, index
        self._has_logprobs, self._offset = has_logprobs, offset

    def chunks(self, piece: TextDelta) -> Iterator[Answer]:
        """Return the chunks of a piece: its text, and the reason of the end by itself."""
        if piece.text or piece.chances:
            logprobs = None
            if self._has_logprobs:
                logprobs = text_logprobs(piece.chances, self._tokenizer, self._offset)
            self._offset += len(piece.text)
            yield self._head.text([text_choice(piece.text, index=self._index, logprobs=logprobs)])
        if piece.finish_reason is not None:
            end = text_choice("", index=self._index, finish_reason=piece.finish_reason)
            yield self._head.text([end])


class ChatStream:
    """A chat completion, streamed.

    Args:
        head: What every chunk repeats.
        tokenizer: The model's.
        plan: What is answered; a call that must be made is streamed as one.
        has_logprobs: Whether chunks carry log probabilities.
        index: Number of this choice.
        has_legacy_call: Whether calls come under their old name, ``function_call``, too.
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
    ) -> None:
        self._head, self._tokenizer, self._plan, self._index = head, tokenizer, plan, index
        self._has_logprobs, self._has_legacy_call = has_logprobs, has_legacy_call
        self._has_begun = False
        self._held: list[str] = []  # what may be a call, until it is whole
        self._is_call = False
        self._named: set[int] = set()

    def chunks(self, piece: TextDelta) -> Iterator[Answer]:
        """Return the chunks of a piece; the first says who speaks."""
        if not self._has_begun:
            self._has_begun = True
            yield self._chunk({"role": "assistant"})
        logprobs = None
        if self._has_logprobs and piece.chances:
            logprobs = chat_logprobs(piece.chances, self._tokenizer)
        for delta in self._deltas(piece):
            yield self._chunk(delta, logprobs=logprobs)
            logprobs = None
        if piece.finish_reason is not None:
            reason = "tool_calls" if self._is_call else piece.finish_reason
            yield self._chunk({}, finish_reason=reason)

    def _deltas(self, piece: TextDelta) -> Iterator[Answer]:
        """Return what a piece adds: text, or part of a call."""
        if self._plan.tool is not None:
            self._is_call = True
            if piece.text:
                yield self._call_delta(Call(self._plan.tool, piece.text), 0)
        elif self._plan.tools and (self._held or piece.text.lstrip().startswith("{") or
                                   (self._plan.must_call and piece.text)):  # fmt: skip
            self._held.append(piece.text)
            if piece.finish_reason is not None:
                yield from self._held_deltas()
        elif self._held:
            yield from self._held_deltas()
        elif piece.text:
            yield {"content": piece.text}

    def _held_deltas(self) -> Iterator[Answer]:
        text, self._held = "".join(self._held), []
        calls = self._plan.calls(text)
        self._is_call = bool(calls)
        if not calls:
            yield {"content": text}
        for i, call in enumerate(calls):
            yield self._call_delta(call, i)

    def _call_delta(self, call: Call, i: int) -> Answer:
        """Return part of a call; its name and id stand in the first part alone, clients add up."""
        function: Answer = {"arguments": call.arguments}
        part: Answer = {"index": i, "type": "function"}
        if i not in self._named:
            self._named.add(i)
            function = {"name": call.name, **function}
            part["id"] = call_id(self._head, call.name, i)
        part["function"] = function
        delta: Answer = {"tool_calls": [part]}
        if self._has_legacy_call:
            delta["function_call"] = function
        return delta

    def _chunk(self, delta: Answer, **more: Any) -> Answer:
        return self._head.chat_chunk([delta_choice(delta, index=self._index, **more)])


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
    """Return a whole answer of a conversation as one choice."""
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
    return chat_choice(message, index=index, logprobs=logprobs, finish_reason=finish_reason)


def call_id(head: Head, name: str, i: int) -> str:
    """Return the id of a call."""
    return f"call__{i}_{name}_{head.id}"


def gather(pieces: Iterable[TextDelta]) -> tuple[str, tuple[TokenLogprob, ...], str]:
    """Return text, log probabilities and finish reason of a run from its pieces."""
    texts: list[str] = []
    chances: list[TokenLogprob] = []
    reason = "stop"
    for piece in pieces:
        texts.append(piece.text)
        chances += piece.chances
        reason = piece.finish_reason or reason
    return "".join(texts), tuple(chances), reason
