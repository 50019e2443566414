"""Calls as models write them, format by format."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gguf_hub.run.generation.call_formats import MARKS
from gguf_hub.run.generation.reasoning import MARKS as REASONING_MARKS
from gguf_hub.run.tokenizer import EDGE

Calls = Sequence[tuple[str, Mapping[str, Any]]]

ALL_MARKS = MARKS.union(*REASONING_MARKS)
_MARK = re.compile("|".join(map(re.escape, sorted(ALL_MARKS, key=len, reverse=True))))


def with_edges(text: str) -> str:
    """Return the text of tokens whose marks are control tokens."""
    return _MARK.sub(lambda match: f"{EDGE}{match[0]}{EDGE}", text)


def _data(name: str, arguments: Any, key: str = "arguments") -> str:
    return json.dumps({"name": name, key: arguments})


def _each(write: Callable[[str, Any], str], join: str = "\n") -> Callable[[Calls], str]:
    return lambda calls: join.join(write(name, arguments) for name, arguments in calls)


def _listed(calls: Calls) -> str:
    return "[" + ", ".join(_data(*call) for call in calls) + "]"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _qwen_xml(name: str, arguments: Mapping[str, Any]) -> str:
    inner = "".join(
        f"<parameter={key}>\n{_plain(value)}\n</parameter>\n" for key, value in arguments.items()
    )
    return f"<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>"


def _glm(line: str) -> Callable[[str, Any], str]:
    def write(name: str, arguments: Mapping[str, Any]) -> str:
        inner = "".join(
            f"<arg_key>{key}</arg_key>{line}<arg_value>{_plain(value)}</arg_value>{line}"
            for key, value in arguments.items()
        )
        return f"<tool_call>{name}{line}{inner}</tool_call>"

    return write


def _gemma(start: str, quote: str, end: str) -> Callable[[str, Any], str]:
    def value_of(value: Any) -> str:
        if isinstance(value, str):
            return f"{quote}{value}{quote}"
        if isinstance(value, list):
            return "[" + ",".join(map(value_of, value)) + "]"
        if isinstance(value, dict):
            return "{" + ",".join(f"{key}:{value_of(each)}" for key, each in value.items()) + "}"
        return json.dumps(value)

    return lambda name, arguments: f"{start}call:{name}{value_of(arguments)}{end}"


_BEGIN, _END, _SEP = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"


def _deepseek(write: Callable[[str, str], str]) -> Callable[[Calls], str]:
    def written(calls: Calls) -> str:
        inner = "\n".join(
            f"{_BEGIN}{write(name, json.dumps(arguments))}{_END}" for name, arguments in calls
        )
        return f"<｜tool▁calls▁begin｜>{inner}<｜tool▁calls▁end｜>" if calls else ""

    return written


def _dsml(section: str) -> Callable[[Calls], str]:
    """As encoding_dsv32.py of DeepSeek-V3.2 writes them."""
    tag = "｜DSML｜"

    def parameter(key: str, value: Any) -> str:
        is_text = str(isinstance(value, str)).lower()
        return (f'<{tag}parameter name="{key}" string="{is_text}">{_plain(value)}'
                f"</{tag}parameter>")  # fmt: skip

    def written(calls: Calls) -> str:
        invokes = [
            f'<{tag}invoke name="{name}">\n'
            + "\n".join(parameter(*item) for item in arguments.items())
            + f"\n</{tag}invoke>"
            for name, arguments in calls
        ]
        inner = "\n".join(invokes)
        return f"<{tag}{section}>\n{inner}\n</{tag}{section}>" if calls else ""

    return written


def _kimi(calls: Calls) -> str:
    """As the chat template of Kimi-K2-Instruct writes them."""
    inner = "".join(
        f"<|tool_call_begin|>functions.{name}:{i}<|tool_call_argument_begin|>"
        f"{json.dumps(arguments)}<|tool_call_end|>"
        for i, (name, arguments) in enumerate(calls)
    )
    section = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
    return inner.join(section) if calls else ""


FORMATS: dict[str, Callable[[Calls], str]] = {
    "OpenAI": _listed,
    "Llama 3": _each(lambda name, arguments: _data(name, arguments, "parameters"), "; "),
    "Llama 3, python": lambda calls: "<|python_tag|>" + "; ".join(_data(*call) for call in calls),
    "Hermes": _each(lambda *call: f"<tool_call>\n{_data(*call)}\n</tool_call>"),
    "Qwen, XML": _each(_qwen_xml),
    "functionary": _each(lambda name, a: f"<function={name}>{json.dumps(a)}</function>", ""),
    "Mistral": lambda calls: "[TOOL_CALLS]" + _listed(calls),
    "Mistral, later": _each(lambda name, a: f"[TOOL_CALLS]{name}[ARGS]{json.dumps(a)}", ""),
    "Mistral, with ids": _each(
        lambda name, a: f"[TOOL_CALLS]{name}[CALL_ID]abc123XYZ[ARGS]{json.dumps(a)}", ""
    ),
    "Granite": lambda calls: "<|tool_call|>" + _listed(calls),
    "GLM 4.5": _each(_glm("\n")),
    "GLM 4.7": _each(_glm("")),
    "Gemma 4": _each(_gemma("<|tool_call>", '<|"|>', "<tool_call|>"), ""),
    "FunctionGemma": _each(_gemma("<start_function_call>", "<escape>", "<end_function_call>"), ""),
    "DeepSeek V3": _deepseek(lambda name, a: f"function{_SEP}{name}\n```json\n{a}\n```"),
    "DeepSeek V3.1": _deepseek(lambda name, a: f"{name}{_SEP}{a}"),
    "DeepSeek V3.2": _dsml("function_calls"),
    "DeepSeek V4": _dsml("tool_calls"),
    "Kimi K2": _kimi,
}
"""Format -> the text of calls, as the model's chat template writes them."""


def harmony(calls: Calls, text: str = "", thought: str = "") -> str:
    """Return gpt-oss's answer after ``<|start|>assistant``."""
    messages = [f"<|channel|>analysis<|message|>{thought}"] if thought else []
    if text:
        channel = "commentary" if calls else "final"
        messages.append(f"<|channel|>{channel}<|message|>{text}")
    messages += [
        f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
        f"{json.dumps(arguments)}"
        for name, arguments in calls
    ]
    return "<|end|><|start|>assistant".join(messages)
