"""Text deltas as OpenAI answers: text or chat, complete or streamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from gguf_hub.run.generation.answers import (
    Answer,
    Head,
    chat_choice,
    chat_logprobs,
    text_choice,
    text_logprobs,
    warned,
)
from gguf_hub.run.generation.chat import ChatPlan
from gguf_hub.run.generation.generation import Generation, TextDelta
from gguf_hub.run.generation.logits_sampler import TokenLogprob
from gguf_hub.run.generation.parts import CallDelta, Part, ReasoningDelta
from gguf_hub.run.generation.tool_calls import split_answer
from gguf_hub.run.tokenizer import StreamDecoder, Tokenizer

CallForm = Literal["tool_calls", "function_call", "both"]
"""OpenAI's form of calls, its older one of a single call, or both, as llama-cpp-python has them."""


class CompletionStream:
    """A text completion, whole or streamed.

    Args:
        head: What every chunk repeats.
        tokenizer: The model's.
        generation: The text.
        prompt: As the client gave it, for what is in front of the text.
        has_echo: Put the prompt in front, with its log probabilities if there are any.
        has_logprobs: Whether answers carry log probabilities.
        index: Number of this choice.
        warnings: For the last chunk.
    """

    def __init__(
        self,
        head: Head,
        tokenizer: Tokenizer,
        generation: Generation,
        prompt: str | Sequence[int | str],
        *,
        has_echo: bool = False,
        has_logprobs: bool = False,
        index: int = 0,
        warnings: Iterable[str] = (),
    ) -> None:
        self._head, self._tokenizer, self._index = head, tokenizer, index
        self._generation, self._has_logprobs = generation, has_logprobs
        self._warned = warned(warnings)
        text = prompt if isinstance(prompt, str) else tokenizer.decode(generation.request.prompt)
        self._echo = text if has_echo else None
        self._decoder = StreamDecoder(tokenizer)
        self._offset = 0 if has_echo else len(text)
        # a begin token that encoding has put there is no part of the text
        has_bos = generation.request.prompt[:1] == (tokenizer.bos_id,)
        self._n_hidden = 1 if has_bos and isinstance(prompt, str) else 0

    def choice(self, deltas: Iterable[TextDelta]) -> Answer:
        """Return the complete text as one choice."""
        text, logprobs, reason = gather(deltas)
        echo = self._take_echo()
        before = [] if echo is None else self._prompt_logprobs()
        return text_choice(f"{echo or ''}{text}", index=self._index, finish_reason=reason,
                           logprobs=self._logprobs([*before, *logprobs]))  # fmt: skip

    def chunks(self, delta: TextDelta) -> Iterator[Answer]:
        """Yield the chunks of a delta: the prompt once, its text, and the finish reason."""
        if (echo := self._take_echo()) is not None:
            yield self._chunk(echo, self._logprobs(self._prompt_logprobs()))
        if delta.text or delta.logprobs:
            yield self._chunk(delta.text, self._logprobs(delta.logprobs))
        if delta.finish_reason is not None:
            end = self._chunk("", None, finish_reason=delta.finish_reason)
            yield {**end, **self._warned}

    def _take_echo(self) -> str | None:
        echo, self._echo = self._echo, None
        return echo

    def _prompt_logprobs(self) -> list[TokenLogprob | int]:
        """Return how likely the prompt's tokens were; the first one's id alone."""
        first = self._n_hidden
        likely = self._generation.prompt_logprobs[first + 1 :]
        return [*self._generation.request.prompt[first : first + 1], *filter(None, likely)]

    def _logprobs(self, logprobs: Sequence[TokenLogprob | int]) -> Answer | None:
        if not self._has_logprobs:
            return None
        answer, self._offset = text_logprobs(logprobs, self._tokenizer, self._decoder, self._offset)
        return answer

    def _chunk(self, text: str, logprobs: Answer | None, **fields: Any) -> Answer:
        choice = text_choice(text, index=self._index, logprobs=logprobs, **fields)
        return self._head.text([choice])


class ChatStream:
    """A chat completion, streamed.

    Args:
        head: What every chunk repeats.
        tokenizer: The model's.
        plan: The conversation; the arguments of a required call are streamed.
        has_logprobs: Whether chunks carry log probabilities.
        index: Number of this choice.
        call_form: How calls are written.
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
        call_form: CallForm = "tool_calls",
        warnings: Iterable[str] = (),
    ) -> None:
        self._head, self._tokenizer, self._index = head, tokenizer, index
        self._warned = warned(warnings)
        self._has_logprobs, self._call_form = has_logprobs, call_form
        self._parser = plan.parser()
        self._has_begun = False
        self._named_calls: set[int] = set()

    def chunks(self, delta: TextDelta) -> Iterator[Answer]:
        """Yield the chunks of a delta; the first one has the role."""
        if not self._has_begun:
            self._has_begun = True
            yield self._chunk({"role": "assistant"})
        logprobs = None
        if self._has_logprobs and delta.logprobs:
            logprobs = chat_logprobs(delta.logprobs, self._tokenizer)
        parts = self._parser.feed(delta.text)
        if delta.finish_reason is not None:
            parts += self._parser.finish()
        for part in parts:
            yield self._chunk(self._message_delta(part), logprobs=logprobs)
            logprobs = None
        if logprobs is not None:  # of text that is held back
            yield self._chunk({}, logprobs=logprobs)
        if delta.finish_reason is not None:
            reason = _reason(self._parser.finish_reason(delta.finish_reason), self._call_form)
            yield {**self._chunk({}, finish_reason=reason), **self._warned}

    def _message_delta(self, part: Part) -> Answer:
        if isinstance(part, str):
            return {"content": part}
        if isinstance(part, ReasoningDelta):
            return {"reasoning_content": part.text}
        return self._call_delta(part)

    def _call_delta(self, call: CallDelta) -> Answer:
        """Return part of a call; only the first part has name and id, as clients concatenate."""
        function: Answer = {"arguments": call.arguments}
        part: Answer = {"index": call.index, "type": "function"}
        if call.index not in self._named_calls:
            self._named_calls.add(call.index)
            function = {"name": call.name, **function}
            part["id"] = call_id(self._head, call.name, call.index, self._index)
        part["function"] = function
        has_old = self._call_form != "tool_calls" and call.index == 0
        old: Answer = {"function_call": function} if has_old else {}
        return old if self._call_form == "function_call" else {"tool_calls": [part], **old}

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
    call_form: CallForm = "tool_calls",
) -> Answer:
    """Return the complete answer of a conversation as one choice."""
    parser = plan.parser()
    content, reasoning, calls = split_answer(parser, text)
    message: Answer = {"role": "assistant", "content": content or (None if calls else "")}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls and call_form != "tool_calls":
        message["function_call"] = {"name": calls[0].name, "arguments": calls[0].arguments}
    if calls and call_form != "function_call":
        message["tool_calls"] = [
            {
                "id": call_id(head, call.name, i, index),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for i, call in enumerate(calls)
        ]
    reason = _reason(parser.finish_reason(finish_reason), call_form)
    return chat_choice("message", message, index=index, logprobs=logprobs, finish_reason=reason)


def _reason(reason: str, call_form: CallForm) -> str:
    return call_form if reason == "tool_calls" and call_form == "function_call" else reason


def call_id(head: Head, name: str, i: int, choice: int = 0) -> str:
    """Return the id of a call, one of its own for each choice of an answer."""
    return f"call__{i}_{name}_{head.id}" + (f"-{choice}" if choice else "")


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
