"""Conversations: from messages, tools and a response format to a prompt, and back from the text.

A tool's JSON schema constrains the output. A tool that must be called makes the output its
arguments; of several, one of which must be called, the output is ``{"name": ..., "arguments":
...}``. Where the model may choose, calls may stand in its text (``tool_calls``).
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any
from urllib.parse import quote

from gguf_hub.errors import ChatTemplateError, UsageError
from gguf_hub.run.chat import ChatFormat, ChatPrompt, Message, choose_format, find_format
from gguf_hub.run.chat.messages import plain_messages
from gguf_hub.run.generation.call_formats import MARKS as CALL_MARKS
from gguf_hub.run.generation.grammar_cache import JSON_OBJECT
from gguf_hub.run.generation.harmony import HarmonyParser, is_harmony
from gguf_hub.run.generation.marks import MarkedParser
from gguf_hub.run.generation.parts import AnswerParser
from gguf_hub.run.generation.reasoning import MARKS as REASONING_MARKS
from gguf_hub.run.generation.reasoning import (
    KeptReasoning,
    OpenReasoning,
    ReasoningParser,
    open_reasoning,
)
from gguf_hub.run.generation.tool_calls import ForcedCallParser, TextParser
from gguf_hub.run.tokenizer import LITERAL, Tokenizer

Tool = Mapping[str, Any]

_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
_SAYING_NOTHING = frozenset(
    ("type", "properties", "required", "title", "description", "$schema", "$id", "$comment")
)
"""Keywords that give an object without properties no keys."""

_END_MARK = "@@end@@"
_FOREIGN = ("user", "tool", "function")
"""Roles whose texts come from outside."""
_MARKS = CALL_MARKS.union(*REASONING_MARKS)


@dataclass(frozen=True)
class ChatPlan:
    """A rendered conversation and how to answer it.

    Attributes:
        prompt: The rendered text.
        stops: Texts at which the answer ends.
        schema: JSON schema that the answer must satisfy, or None.
        tool: The tool whose arguments the answer is, or None.
        tools: Names of the tools that the answer may call, with the JSON schemas of their
            parameters where they are known.
        must_call: Whether the answer must be a call.
        max_calls: How many calls are returned at most; None for any number.
        strict: Whether the schema must be held in all its parts.
        warnings: What was asked for and is not held.
        splits_reasoning: Whether reasoning is split from the text.
        keeps_reasoning: Whether the text has it, too, between marks.
        opened: Reasoning that the prompt begins.
        marks: Control tokens that the parser is to see (``marks.mark_ids``).
        is_harmony: Whether the answer is written in gpt-oss's channels.
    """

    prompt: str
    stops: tuple[str, ...] = ()
    schema: Any = None
    tool: str | None = None
    tools: Collection[str] = ()
    must_call: bool = False
    max_calls: int | None = None
    strict: bool = False
    warnings: tuple[str, ...] = ()
    splits_reasoning: bool = False
    keeps_reasoning: bool = False
    opened: OpenReasoning | None = None
    marks: frozenset[str] = frozenset()
    is_harmony: bool = False

    def parser(self) -> AnswerParser:
        """Return what splits one answer into reasoning, text and calls."""
        parser = self._parser()
        return KeptReasoning(parser) if self.keeps_reasoning else parser

    def _parser(self) -> AnswerParser:
        if self.tool is not None:
            return ForcedCallParser(self.tool)
        if self.is_harmony:
            return HarmonyParser(self.tools, self.prompt, max_calls=self.max_calls)
        answer: AnswerParser = TextParser(self.tools, max_calls=self.max_calls)
        answer = ReasoningParser(answer, self.opened) if self.splits_reasoning else answer
        return MarkedParser(answer) if self.marks else answer


def plan_chat(
    chat_format: ChatFormat,
    messages: Sequence[Message],
    *,
    tools: Sequence[Tool] | None = None,
    tool_choice: Any = None,
    parallel_tool_calls: bool = True,
    response_format: Mapping[str, Any] | None = None,
    json_schema: Any = None,
    add_generation_prompt: bool | None = None,
    continue_final_message: bool | None = None,
    variables: Mapping[str, Any] | None = None,
    control_texts: re.Pattern[str] | None = None,
    splits_reasoning: bool = False,
    keeps_reasoning: bool = False,
    grammar: str | None = None,
) -> ChatPlan:
    """Render a conversation and return how to answer it.

    A last message of the assistant is continued, as in llama-server.

    Args:
        chat_format: Makes the prompt.
        messages: Turns with ``role`` and ``content``.
        tools: OpenAI's: ``{"type": "function", "function": {"name", "parameters"}}``.
        tool_choice: ``"none"``, ``"auto"``, ``"required"``, the tool that must be called, or
            OpenAI's ``allowed_tools``: those that may be, and whether one must.
        parallel_tool_calls: Whether an answer may call more than once.
        response_format: See ``schema_of``.
        json_schema: See ``schema_of``.
        add_generation_prompt: Whether the answer is a turn of its own; None: unless the last
            message is continued.
        continue_final_message: Whether the answer continues the last message; None: if the
            assistant wrote it, without calls.
        variables: More values for the model's template.
        control_texts: What is not to be read as a control token in the user's and the tools' texts.
        splits_reasoning: Whether to split reasoning from the answer's text.
        keeps_reasoning: Whether to leave it in the text, too.
        grammar: The grammar that the answer is held to, if any.

    Raises:
        UsageError: A message, a tool or the response format is invalid.
        ChatTemplateError: The template refuses the conversation.
    """
    tools, tool_choice = _allowed_tools(tools or (), tool_choice)
    functions = [] if tool_choice == "none" else list(map(_function, tools, count()))
    template_tools = list(tools) if functions else None
    # templates expect the arguments of calls as data
    messages = [_with_call(message) for message in literal_messages(messages, control_texts)]
    options = {**(variables or {}), "tools": template_tools}
    if _is_continued(messages, add_generation_prompt, continue_final_message):
        prompt = _continued_prompt(chat_format, messages, options)
    else:
        starts_turn = add_generation_prompt is not False
        prompt = chat_format.render(messages, add_generation_prompt=starts_turn, **options)
    schema, is_strict = schema_of(response_format, json_schema)
    plan = ChatPlan(prompt.text, prompt.stop, schema, strict=is_strict)
    plan = _with_tools(plan, functions, tool_choice, parallel_tool_calls)
    plan = _with_marks(plan, chat_format.source)
    plan = replace(plan, keeps_reasoning=keeps_reasoning)
    return _with_reasoning(plan, options, grammar) if splits_reasoning else plan


def _with_marks(plan: ChatPlan, template: str) -> ChatPlan:
    """Return a plan whose parser reads the marks of a template.

    An answer that is held to a schema has none.
    """
    if plan.schema is not None:
        return plan
    marks = frozenset(mark for mark in _MARKS if mark in template)
    return replace(plan, marks=marks, is_harmony=is_harmony(template))


def _with_tools(
    plan: ChatPlan, functions: Sequence[Mapping[str, Any]], tool_choice: Any, parallel: bool
) -> ChatPlan:
    if not functions:
        return plan
    names = {function["name"]: function.get("parameters") for function in functions}
    required = _required_functions(tool_choice, functions)
    if required is None:
        max_calls = None if parallel else 1
        warnings = tuple(_free_strict(functions))
        return replace(plan, tools=names, max_calls=max_calls, warnings=warnings)
    plan = replace(plan, must_call=True, strict=any(map(_is_strict, required)))
    if len(required) == 1:
        (function,) = required
        return replace(plan, schema=_parameters(function), tool=function["name"])
    return replace(plan, schema=_calls_schema(required), tools=names)


def _with_reasoning(plan: ChatPlan, variables: Mapping[str, Any], grammar: str | None) -> ChatPlan:
    """Return a plan that splits reasoning from the text.

    Reasoning that the template begins is ended at once where it is not wanted, or where the answer
    is held to a schema, which leaves no room for it.
    """
    opened = open_reasoning(plan.prompt)
    if opened is None:
        return replace(plan, splits_reasoning=True)
    if plan.schema is not None or variables.get("enable_thinking") is False:
        return replace(plan, splits_reasoning=True, prompt=opened.close(plan.prompt))
    if grammar is not None and opened.end not in grammar:
        opened = None
    return replace(plan, splits_reasoning=True, opened=opened)


def as_literal(text: str, control_texts: re.Pattern[str] | None) -> str:
    """Return a text in which no control token is read, to stand in a prompt."""
    if control_texts is None:
        return text
    return control_texts.sub(lambda match: match[0][0] + LITERAL + match[0][1:], text)


def literal_messages(
    messages: Sequence[Message], control_texts: re.Pattern[str] | None
) -> list[Message]:
    """Return messages in which users and tools write no control tokens, only their texts.

    A prompt is read with control tokens, as templates write them: without this, a user's
    ``<|im_end|>`` would end the turn and could go on as the system.
    """
    if control_texts is None:
        return list(messages)

    def literal(value: Any) -> Any:
        if isinstance(value, str):
            return as_literal(value, control_texts)
        if isinstance(value, list):
            return [literal(part) for part in value]
        is_part = isinstance(value, Mapping) and "text" in value
        return {**value, "text": literal(value["text"])} if is_part else value

    return [
        {**message, "content": literal(message.get("content"))}
        if isinstance(message, Mapping) and message.get("role") in _FOREIGN
        else message
        for message in messages
    ]


def format_of(
    metadata: Mapping[str, Any], name: str | None, tokenizer: Tokenizer, *, fallback: str
) -> tuple[ChatFormat, bool]:
    """Return the format of a model's conversations, and whether it is the fallback.

    Args:
        metadata: The model's GGUF metadata.
        name: A format that overrides the model's own: its name, or a Jinja template.
        tokenizer: The model's.
        fallback: Name of the format where neither is given.

    Raises:
        UsageError: No format has this name.
        ChatTemplateError: The template cannot be used.
    """
    bos_token, eos_token = (
        "" if token_id is None else tokenizer.vocab.tokens[token_id]
        for token_id in (tokenizer.bos_id, tokenizer.eos_id)
    )
    own = choose_format(metadata, name, bos_token=bos_token, eos_token=eos_token)
    return (own, False) if own is not None else (find_format(fallback), True)


def modern_tools(
    functions: Sequence[Mapping[str, Any]] | None, function_call: Any
) -> tuple[list[Tool] | None, Any]:
    """Return OpenAI's old ``functions`` and ``function_call`` as tools and a choice."""
    tools: list[Tool] | None = None
    if functions is not None:
        tools = [{"type": "function", "function": function} for function in functions]
    if isinstance(function_call, Mapping) and "name" in function_call:
        return tools, {"type": "function", "function": {"name": function_call["name"]}}
    return tools, function_call


def encode_chat(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Return the token ids of a rendered conversation, with one begin token."""
    bos = tokenizer.bos_id
    starts = bos is not None and prompt.startswith(tokenizer.vocab.tokens[bos])
    return tokenizer.encode(prompt, add_bos=not starts, parse_special=True)


def _is_continued(
    messages: Sequence[Message], starts_turn: bool | None, asked: bool | None
) -> bool:
    last: Any = messages[-1] if messages else None
    is_answer = isinstance(last, Mapping) and last.get("role") == "assistant"
    is_answer = is_answer and not last.get("tool_calls")
    if asked and starts_turn:
        raise UsageError("expected `add_generation_prompt` or `continue_final_message`, found both")
    if asked and not is_answer:
        raise UsageError("continue_final_message: expected a last message of the assistant, "
                         "without calls")  # fmt: skip
    return is_answer and asked is not False and not starts_turn


def _continued_prompt(
    chat_format: ChatFormat, messages: Sequence[Message], options: Mapping[str, Any]
) -> ChatPrompt:
    """Return a prompt that ends with the text of the last message, where a mark after it stands."""
    *before, last = plain_messages(messages)
    marked = {**last, "content": last["content"] + _END_MARK}
    with contextlib.suppress(ChatTemplateError):
        prompt = chat_format.render([*before, marked], add_generation_prompt=False, **options)
        text, mark, _ = prompt.text.rpartition(_END_MARK)
        if mark:
            return replace(prompt, text=text)
    prompt = chat_format.render(before, **options)
    return replace(prompt, text=prompt.text + last["content"])


def schema_of(
    response_format: Mapping[str, Any] | None, json_schema: Any = None
) -> tuple[Any, bool]:
    """Return the JSON schema that a request asks for, or None, and whether all of it must be held.

    Args:
        response_format: ``{"type": "text" | "json_object" | "json_schema", ...}``; the schema
            stands under ``json_schema.schema`` (OpenAI), ``schema`` (llama.cpp) or ``value`` (TGI).
        json_schema: llama-server's field for it.

    Raises:
        UsageError: The type is unknown, or there are two schemas.
    """
    if response_format is not None and not isinstance(response_format, Mapping):
        raise UsageError(f"response_format: expected an object, found {response_format!r:.60}",
                         hint='write {"type": "json_object"}')  # fmt: skip
    kind = (response_format or {}).get("type", "text")
    if response_format is None or kind == "text":
        return (JSON_OBJECT if json_schema == {} else json_schema), False
    if kind not in ("json_object", "json_schema", "json"):
        raise UsageError(
            f"response_format: expected `text`, `json_object` or `json_schema`, found `{kind}`"
        )
    inner = response_format.get("json_schema") or {}
    if not isinstance(inner, Mapping):
        raise UsageError(
            f"response_format: expected an object under `json_schema`, found {inner!r:.60}"
        )
    places = inner, response_format
    schemas = [place.get(key) for place in places for key in ("schema", "value")]
    given = [schema for schema in (*schemas, json_schema) if schema is not None]
    if len(given) > 1:
        raise UsageError(f"expected one JSON schema, found {len(given)}")
    if not given and kind == "json_schema":
        raise UsageError(
            "response_format: expected a schema under `json_schema.schema`, found none",
            hint='write `{"type": "json_object"}` for any object',
        )
    schema = given[0] if given and given[0] != {} else JSON_OBJECT
    return schema, inner.get("strict") is True


def _function(tool: Tool, i: int) -> Mapping[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UsageError(
            f"tools.{i}: expected a function with a name, found {tool!r:.60}",
            hint='write {"type": "function", "function": {"name": ..., "parameters": ...}}',
        )
    return function


def _allowed_tools(tools: Sequence[Tool], choice: Any) -> tuple[Sequence[Tool], Any]:
    """Return the tools that a choice allows, and the choice among them."""
    if not isinstance(choice, Mapping) or choice.get("type") != "allowed_tools":
        return tools, choice
    inner = choice.get("allowed_tools") or choice  # in Responses there is no inner object
    allowed = inner.get("tools") if isinstance(inner, Mapping) else None
    mode = inner.get("mode", "auto") if isinstance(inner, Mapping) else None
    if not isinstance(allowed, list) or mode not in ("auto", "required"):
        raise UsageError("tool_choice: expected `tools`, and `auto` or `required` as `mode`, "
                         f"found {choice!r:.60}")  # fmt: skip
    names = [_name_of(tool) for tool in allowed]
    found = [tool for i, tool in enumerate(tools) if _function(tool, i)["name"] in names]
    if mode == "required" and not found:
        raise UsageError(f"tool_choice: none of the tools that are allowed is there: {names!r:.60}")
    return found, mode


def _name_of(tool: Any) -> Any:
    """Return the name of a tool, in the shape of chat completions or of Responses."""
    if not isinstance(tool, Mapping):
        return None
    inner = tool.get("function")
    return (inner if isinstance(inner, Mapping) else tool).get("name")


def _required_functions(
    choice: Any, functions: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]] | None:
    """Return the functions of which one must be called, or None where the model may choose."""
    if choice is None or choice == "auto":
        return None
    if choice in ("required", "any"):
        return list(functions)
    name = choice
    if isinstance(choice, Mapping):
        inner = choice.get("function")
        name = inner.get("name") if isinstance(inner, Mapping) else choice.get("name")
    matches = [function for function in functions if function["name"] == name]
    if not matches:
        names = ", ".join(f"`{function['name']}`" for function in functions)
        raise UsageError(f"tool_choice: no tool `{name}`", hint=f"tools are {names}")
    return matches[:1]


def _is_strict(function: Mapping[str, Any]) -> bool:
    return function.get("strict") is True


def _free_strict(functions: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a warning for each strict tool that the model may call as it likes."""
    for function in filter(_is_strict, functions):
        yield (f"tools: `strict` of `{function['name']}` is not held: the model may choose whether "
               "to call (`tool_choice`)")  # fmt: skip


def _parameters(function: Mapping[str, Any]) -> Any:
    """Return the schema of a function's arguments.

    Without parameters, or with an object of none and nothing beside it that allows any, a function
    has no arguments, whereas such an object as the schema of an answer may have any keys.
    """
    parameters = function.get("parameters") or {"properties": {}}
    is_empty = isinstance(parameters, Mapping) and parameters.get("properties") == {}
    return _NO_ARGUMENTS if is_empty and parameters.keys() <= _SAYING_NOTHING else parameters


def _calls_schema(functions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the schema of a call of one of these.

    The parameters of each lie under ``$defs`` as a document of their own, so that references
    inside them still mean what they did.
    """
    documents: dict[str, Any] = {}
    calls = []
    for i, function in enumerate(functions):
        key = function["name"] if function["name"] not in documents else f"{function['name']}-{i}"
        parameters = _parameters(function)
        documents[key] = parameters
        if isinstance(parameters, Mapping):
            documents[key] = {"$id": f"urn:gguf-hub:tool:{i}", **parameters}
        pointer = quote(key.replace("~", "~0").replace("/", "~1"), errors="replace")
        properties = {
            "name": {"const": function["name"]},
            "arguments": {"$ref": f"#/$defs/{pointer}"},
        }
        calls.append({"type": "object", "properties": properties, "required": [*properties]})
    return {"anyOf": calls, "$defs": documents}


def _with_call(message: Any) -> Any:
    if not isinstance(message, Mapping):
        return message
    calls = message.get("tool_calls")
    if not calls and isinstance(message.get("function_call"), Mapping):  # OpenAI's old name
        calls = [{"type": "function", "function": message["function_call"]}]
    if not calls:
        return message
    if not isinstance(calls, list):
        raise UsageError(f"tool_calls: expected a list of calls, found {calls!r:.60}")
    return {**message, "tool_calls": [_parse_arguments(call) for call in calls]}


def _parse_arguments(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    return {**call, "function": {**function, "arguments": arguments}}
