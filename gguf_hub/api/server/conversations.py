"""The one way from a conversation to its answer, whichever interface asked.

Each interface translates its requests into OpenAI's ``ChatBody``, and the parts of the answer with
a ``Builder``. A whole answer is what the stream's builder has collected, so that the two agree.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

from fastapi import Request
from starlette.responses import Response

from gguf_hub.api.server.bodies import ChatBody
from gguf_hub.api.server.flow import while_connected
from gguf_hub.api.server.replies import Events, Framing, Json
from gguf_hub.api.server.service import Service
from gguf_hub.api.server.stream import Stream
from gguf_hub.errors import UsageError
from gguf_hub.run.generation import Generation, TextDelta
from gguf_hub.run.generation.chat import ChatPlan, Tool, encode_chat, modern_tools, plan_chat
from gguf_hub.run.generation.logits_sampler import TokenLogprob
from gguf_hub.run.generation.parts import Part, ReasoningDelta
from gguf_hub.run.generation.reasoning import open_reasoning
from gguf_hub.run.generation.reasoning_budget import ReasoningBudget
from gguf_hub.run.generation.stops import stop_list
from gguf_hub.run.tokenizer import LITERAL

IDLE_S = 10.0
"""Seconds without a token after which a stream shows that it is alive."""

Chunk = dict[str, Any]


class Builder(Protocol):
    """Makes the answer of one interface from parts; each method returns what is streamed."""

    def begin(self) -> list[Chunk]:
        """Return what comes before the first part."""
        ...

    def add(self, part: Part, logprobs: Sequence[TokenLogprob]) -> list[Chunk]:
        """Add a part, and the log probabilities of the tokens since the last one."""
        ...

    def idle(self) -> list[Chunk]:
        """Return what shows that the answer is still computed."""
        ...

    def finish(self, reason: str, n_reasoning: int) -> list[Chunk]:
        """End the answer.

        Args:
            reason: ``stop``, ``length`` or ``tool_calls``.
            n_reasoning: Tokens of the reasoning.
        """
        ...

    def fail(self, exc: Exception) -> list[Chunk]:
        """End the answer with an error."""
        ...

    def answer(self) -> Chunk:
        """Return the whole answer, after ``finish``."""
        ...


async def prepare_chat(
    service: Service, body: ChatBody, request: Request
) -> tuple[ChatPlan, list[Generation]]:
    """Return how to answer a conversation, and a text for each answer, not started yet.

    Raises:
        GgufHubError: As ``plan_chat`` and ``Service.prepare`` do.
    """
    work = service.pool_of(body).run(_prepare, service, body)
    return await while_connected(request, work)


async def count_tokens(service: Service, body: ChatBody, request: Request) -> int:
    """Return the number of tokens of a conversation's prompt."""

    def count() -> int:
        return len(_encode(service, _plan(service, body)))

    return await while_connected(request, service.pool_of(body).run(count))


async def render_chat(service: Service, body: ChatBody, request: Request) -> str:
    """Return the prompt of a conversation."""
    work = service.pool_of(body).run(_plan, service, body)
    return (await while_connected(request, work)).prompt.replace(LITERAL, "")


async def answer_chat(
    service: Service,
    body: ChatBody,
    request: Request,
    make_builder: Callable[[ChatPlan, Generation], Builder],
    framing: Framing,
) -> Response:
    """Reply with the one answer of a conversation, whole or streamed as the body says."""
    plan, (generation,) = await prepare_chat(service, body, request)
    builder = make_builder(plan, generation)
    return await answer(service, plan, generation, request, builder, framing, body.stream)


async def answer(
    service: Service,
    plan: ChatPlan,
    generation: Generation,
    request: Request,
    builder: Builder,
    framing: Framing,
    is_streamed: bool,
) -> Response:
    """Reply with a text, whole or streamed."""
    stream = service.start([generation], is_buffered=not is_streamed)
    reader = _Reader(plan, builder)
    if is_streamed:
        return Events(_chunks(reader, builder, stream), stream.cancel, framing)
    (deltas,) = await while_connected(request, stream.all())
    builder.begin()
    for delta in deltas:
        reader.read(delta)
    return Json(builder.answer())


class _Reader:
    """Passes the deltas of an answer to its builder as parts."""

    def __init__(self, plan: ChatPlan, builder: Builder) -> None:
        self._parser, self._builder = plan.parser(), builder
        self._logprobs: list[TokenLogprob] = []
        self._n_tokens = self._n_reasoning = 0

    def read(self, delta: TextDelta) -> list[Chunk]:
        """Return what a delta adds to the stream."""
        self._logprobs += delta.logprobs
        self._n_tokens += 1
        parts = self._parser.feed(delta.text)
        if delta.finish_reason is not None:
            parts += self._parser.finish()
        chunks: list[Chunk] = []
        for part in parts:
            logprobs, self._logprobs = self._logprobs, []
            if isinstance(part, ReasoningDelta):
                self._n_reasoning = self._n_tokens
            chunks += self._builder.add(part, logprobs)
        if delta.finish_reason is not None:
            reason = self._parser.finish_reason(delta.finish_reason)
            chunks += self._builder.finish(reason, self._n_reasoning)
        return chunks


async def _chunks(reader: _Reader, builder: Builder, stream: Stream) -> AsyncIterator[list[Chunk]]:
    yield builder.begin()
    try:
        async for batch in stream.batches(IDLE_S):
            if not batch:
                yield builder.idle()
            yield [chunk for _, delta in batch for chunk in reader.read(delta)]
    except Exception as exc:  # the status is sent already: report the error in the stream
        yield builder.fail(exc)


def _prepare(service: Service, body: ChatBody) -> tuple[ChatPlan, list[Generation]]:
    plan = _plan(service, body)
    tokens = _encode(service, plan)
    limit = body.max_completion_tokens
    budget = _budget(service, body, plan)
    generations = [
        service.prepare(
            tokens, body, max_tokens=body.max_tokens if limit is None else limit,
            stops=[*stop_list(body.stop), *plan.stops],
            n_top=(body.top_logprobs or 0) if body.logprobs else None, schema=plan.schema,
            strict=plan.strict, choice=choice, warnings=plan.warnings,
            marks=plan.marks, budget=None if budget is None else budget.ahead(),
        )
        for choice in range(body.n)
    ]  # fmt: skip
    return plan, generations


def _plan(service: Service, body: ChatBody) -> ChatPlan:
    tools, choice = _tools(body)
    reasoning_format = body.reasoning_format or service.chat_defaults.reasoning_format
    return plan_chat(
        service.chat_format,
        [message.model_dump(exclude_unset=True) for message in body.messages],
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls and not body.has_legacy_tools,
        response_format=body.response_format,
        json_schema=body.json_schema,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=_is_continued(service, body),
        variables=service.chat_defaults.variables_for(
            body.chat_template_kwargs, body.reasoning_effort, _n_budget(service, body)
        ),
        control_texts=None if body.parse_special else service.tokenizer.vocab.control_texts,
        splits_reasoning=reasoning_format != "none",
        keeps_reasoning=reasoning_format == "deepseek-legacy",
        grammar=body.grammar,
    )


def _is_continued(service: Service, body: ChatBody) -> bool | None:
    """Return whether the last message is continued; None: if the assistant wrote it."""
    if body.continue_final_message is None and not service.chat_defaults.continues_answers:
        return False
    return body.continue_final_message


def _n_budget(service: Service, body: ChatBody) -> int:
    """Return the tokens of reasoning; -1 for no limit."""
    n_tokens = body.reasoning_budget_tokens
    return service.chat_defaults.reasoning_budget if n_tokens < 0 else n_tokens


def _budget(service: Service, body: ChatBody, plan: ChatPlan) -> ReasoningBudget | None:
    if (n_tokens := _n_budget(service, body)) < 0:
        return None
    message = body.reasoning_budget_message
    return ReasoningBudget(
        service.tokenizer, n_tokens, opened=open_reasoning(plan.prompt),
        message=service.chat_defaults.budget_message if message is None else message,
        is_harmony=plan.is_harmony,
    )  # fmt: skip


def _tools(body: ChatBody) -> tuple[Sequence[Tool], Any]:
    """Return the tools of a request, and which must be called.

    Raises:
        UsageError: There are both forms of them, or none where one must be called.
    """
    tools: Sequence[Tool] = body.tools or ()
    choice, field = body.tool_choice, "tool_choice"
    if body.has_legacy_tools:
        if tools:
            raise UsageError("expected `tools` or `functions`, found both")
        functions, choice = modern_tools(body.functions, body.function_call)
        tools, field = functions or (), "function_call"
    if not tools and choice not in (None, "none", "auto"):
        raise UsageError(f"{field}: expected a tool to call, found no tools",
                         hint="send them as `tools`, or leave it out")  # fmt: skip
    return tools, choice


def _encode(service: Service, plan: ChatPlan) -> list[int]:
    service.check_length(plan.prompt.replace(LITERAL, ""))
    return encode_chat(service.tokenizer, plan.prompt)
