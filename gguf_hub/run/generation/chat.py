"""Conversations: from messages, tools and a response format to a prompt, and back from the text.

A tool's JSON schema constrains the output. A tool that must be called makes the output its
arguments; of several, one of which must be called, the output is ``{"name": ..., "arguments":
...}``. Where the model may choose, its text is a call if it is such an object and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from gguf_hub.errors import UsageError
from gguf_hub.run.chat import ChatFormat, Message, choose_format, find_format
from gguf_hub.run.generation.grammar_cache import JSON_OBJECT
from gguf_hub.run.tokenizer import Tokenizer

Tool = Mapping[str, Any]


@dataclass(frozen=True)
class Call:
    """A tool that the model calls.

    Attributes:
        name: The tool.
        arguments: JSON text.
    """

    name: str
    arguments: str


@dataclass(frozen=True)
class ChatPlan:
    """A rendered conversation and how to answer it.

    Attributes:
        prompt: The rendered text.
        stops: Texts at which the answer ends.
        schema: JSON schema that the answer must satisfy, or None.
        tool: The tool whose arguments the answer is, or None.
        tools: Names of the tools that the answer may call.
        must_call: Whether the answer must be a call.
        strict: Whether the schema must be held in all its parts.
        warnings: What was asked for and is not held.
    """

    prompt: str
    stops: tuple[str, ...] = ()
    schema: Any = None
    tool: str | None = None
    tools: tuple[str, ...] = ()
    must_call: bool = False
    strict: bool = False
    warnings: tuple[str, ...] = ()

    def calls(self, text: str) -> list[Call]:
        """Return the calls that an answer makes; none where it is plain text."""
        if self.tool is not None:
            return [Call(self.tool, text)]
        if not self.tools:
            return []
        try:
            data = json.loads(text)
        except ValueError:
            return []
        if not isinstance(data, dict) or data.get("name") not in self.tools:
            return []
        arguments = data.get("arguments", data.get("parameters"))
        return [Call(data["name"], json.dumps(arguments))] if isinstance(arguments, dict) else []


def plan_chat(
    chat_format: ChatFormat,
    messages: Sequence[Message],
    *,
    tools: Sequence[Tool] | None = None,
    tool_choice: Any = None,
    response_format: Mapping[str, Any] | None = None,
    **variables: Any,
) -> ChatPlan:
    """Render a conversation and return how to answer it.

    Args:
        chat_format: Makes the prompt.
        messages: Turns with ``role`` and ``content``.
        tools: OpenAI's: ``{"type": "function", "function": {"name", "parameters"}}``.
        tool_choice: ``"none"``, ``"auto"``, ``"required"``, or the tool that must be called.
        response_format: ``{"type": "text" | "json_object" | "json_schema", ...}``.
        variables: More values for the model's template.

    Raises:
        UsageError: A message, a tool or the response format is invalid.
        ChatTemplateError: The template refuses the conversation.
    """
    functions = [] if tool_choice == "none" else [_function(tool) for tool in tools or ()]
    template_tools = list(tools or ()) if functions else None
    # templates expect the arguments of calls as data
    messages = [_with_call(message) for message in messages]
    prompt = chat_format.render(messages, tools=template_tools, **variables)
    schema, is_strict = _schema_of(response_format)
    plan = ChatPlan(prompt.text, prompt.stop, schema, strict=is_strict)
    if not functions:
        return plan
    names = tuple(function["name"] for function in functions)
    required = _required_functions(tool_choice, functions)
    if required is None:
        return replace(plan, tools=names, warnings=tuple(_free_strict(functions)))
    plan = replace(plan, must_call=True, strict=any(map(_is_strict, required)))
    if len(required) == 1:
        (function,) = required
        return replace(plan, schema=_parameters(function), tool=function["name"])
    return replace(plan, schema=_calls_schema(required), tools=names)


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


def _function(tool: Tool) -> Mapping[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UsageError(
            f"tools: expected a function with a name, found {tool!r}",
            hint='write {"type": "function", "function": {"name": ..., "parameters": ...}}',
        )
    return function


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
    return function.get("parameters") or JSON_OBJECT


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


def _schema_of(response_format: Mapping[str, Any] | None) -> tuple[Any, bool]:
    """Return the schema of an answer, or None, and whether all of it must be held."""
    kind = (response_format or {}).get("type", "text")
    if response_format is None or kind == "text":
        return None, False
    if kind == "json_object":
        return response_format.get("schema") or JSON_OBJECT, False
    if kind == "json_schema":
        inner = response_format.get("json_schema") or {}
        if not isinstance(inner, Mapping):
            raise UsageError("response_format: expected an object as `json_schema`, found "
                             f"{inner!r:.60}")  # fmt: skip
        schema = inner.get("schema")
        if schema is None:
            schema = response_format.get("schema") or JSON_OBJECT
        return schema, inner.get("strict") is True
    raise UsageError(
        f"response_format: expected `text`, `json_object` or `json_schema`, found `{kind}`"
    )


def _with_call(message: Message) -> Message:
    calls = message.get("tool_calls") if isinstance(message, Mapping) else None
    if not isinstance(calls, list):
        return message
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
