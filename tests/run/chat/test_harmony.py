"""gpt-oss's conversations, against the examples of the published format."""

from __future__ import annotations

import re
from typing import Any

from gguf_hub.run.chat import find_format
from gguf_hub.run.generation.chat import plan_chat
from gguf_hub.run.generation.parts import ReasoningDelta

WEATHER = {
    "name": "get_current_weather",
    "description": "Gets the current weather in the provided location.",
    "parameters": {
        "type": "object",
        "properties": {
            "location": {"type": "string", "description": "The city"},
            "format": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
            "days": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["location"],
    },
}
TOOLS = [
    {"type": "function", "function": {"name": "get_location", "description": "Where one is."}},
    {"type": "function", "function": WEATHER},
]
CALL = {"id": "c1", "function": {"name": "get_location", "arguments": "{}"}}


def _render(messages: list[Any], **options: Any) -> str:
    text = find_format("gpt-oss").render(messages, **options).text
    return re.sub(r"date: \d{4}-\d\d-\d\d\n", "date: DATE\n", text)


def test_instructions_are_the_developers_and_settings_the_systems() -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "u"},
                {"role": "assistant", "content": "a", "reasoning_content": "old"},
                {"role": "user", "content": "v"}]  # fmt: skip
    assert _render(messages, reasoning_effort="high") == (
        "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
        "Knowledge cutoff: 2024-06\nCurrent date: DATE\n\nReasoning: high\n\n"
        "# Valid channels: analysis, commentary, final. Channel must be included for every "
        "message.<|end|>"
        "<|start|>developer<|message|># Instructions\n\nS<|end|>"
        "<|start|>user<|message|>u<|end|>"
        "<|start|>assistant<|channel|>final<|message|>a<|end|>"
        "<|start|>user<|message|>v<|end|><|start|>assistant"
    )


def test_tools_are_types_and_calls_and_results_name_them() -> None:
    messages = [{"role": "user", "content": "u"},
                {"role": "assistant", "content": None, "thinking": "t", "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c1", "content": "here"}]  # fmt: skip
    text = _render(messages, tools=TOOLS)
    assert "Calls to these tools must go to the commentary channel: 'functions'.<|end|>" in text
    assert text.partition("<|start|>developer")[2] == (
        "<|message|># Tools\n\n## functions\n\nnamespace functions {\n\n"
        "// Where one is.\ntype get_location = () => any;\n\n"
        "// Gets the current weather in the provided location.\n"
        "type get_current_weather = (_: {\n// The city\nlocation: string,\n"
        'format?: "celsius" | "fahrenheit", // default: celsius\ndays?: number[],\n'
        "}) => any;\n\n} // namespace functions<|end|>"
        "<|start|>user<|message|>u<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>t<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.get_location <|constrain|>json"
        "<|message|>{}<|call|>"
        "<|start|>functions.get_location to=assistant<|channel|>commentary<|message|>here<|end|>"
        "<|start|>assistant"
    )


def test_answers_in_this_format_are_read_by_their_channels() -> None:
    plan = plan_chat(find_format("gpt-oss"), [{"role": "user", "content": "u"}],
                     splits_reasoning=True)  # fmt: skip
    parser = plan.parser()
    answer = "<|channel|>analysis<|message|>t<|end|><|start|>assistant<|channel|>final<|message|>a"
    parts = [*parser.feed(answer), *parser.finish()]
    assert parts == [ReasoningDelta("t"), "a"]
