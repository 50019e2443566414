"""Flags about reasoning and chat templates of `run` and `serve`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.cli.run.reasoning import Variables, chat_defaults

Cli = Callable[..., tuple[int, str, str]]
OPTIONS: dict[str, Any] = {
    "chat_template_kwargs": None, "reasoning": "auto", "reasoning_effort": "default",
    "reasoning_budget": -1, "reasoning_budget_message": "",
}  # fmt: skip


def test_flags_become_defaults_of_conversations() -> None:
    assert chat_defaults(OPTIONS)["variables"] == {}
    given = {"chat_template_kwargs": {"a": 1}, "reasoning": "off", "reasoning_effort": "high"}
    defaults = chat_defaults({**OPTIONS, **given})
    expected = {"a": 1, "enable_thinking": False, "reasoning_effort": "high"}
    assert defaults["variables"] == expected
    assert Variables().convert('{"a": [1]}', None, None) == {"a": [1]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chat-template-kwargs", "{"], "expected a JSON object"),
        (["--chat-template-kwargs", "[1]"], "expected a JSON object"),
        (["--chat-template-kwargs", '{"messages": 1}'], "`messages` comes from"),
        (["--chat-template-kwargs", '{"enable_thinking": "false"}'], "expected true or false"),
        (["--reasoning", "maybe"], "expected on, off or auto"),
        (["--reasoning-budget", "-2"], "--reasoning-budget"),
    ],
)
@pytest.mark.parametrize("command", ["run", "serve"])
def test_wrong_values_are_said(
    gguf_hub: Cli, command: str, arguments: list[str], message: str
) -> None:
    code, _, err = gguf_hub(command, "x.gguf", *arguments)
    assert code == 2 and message in err


TEMPLATE = (
    "{% for m in messages %}{{ m.content }}{% endfor %} {{ tone }}"
    "{% if enable_thinking is defined and not enable_thinking %} No thoughts.{% endif %}<think>\n"
)


def test_a_conversation_has_the_variables_and_no_reasoning_where_it_is_off(
    gguf_hub: Cli, data: Path, kernels: None
) -> None:
    model = data / "models" / "stories260K.f32.gguf"
    options = ["-n", 8, "--temp", 0, "--no-perf"]
    flags = ["--chat-template", TEMPLATE, "--chat-template-kwargs", '{"tone": "One day"}', "-st"]
    found = gguf_hub("run", model, "Once", *options, *flags, "-rea", "off")
    prompt = "Once One day No thoughts.<think>\n\n</think>\n\n"
    plain = gguf_hub("run", model, "-p", prompt, "-no-cnv", "--no-escape", *options,
                     "--no-display-prompt")  # fmt: skip
    assert (found[0], plain[0]) == (0, 0)
    assert found[1].strip() == plain[1].strip()


def test_reasoning_that_the_template_begins_is_ended_by_its_budget(
    gguf_hub: Cli, data: Path, kernels: None
) -> None:
    model = data / "models" / "stories260K.f32.gguf"
    code, out, _ = gguf_hub(
        "run", model, "Once", "-n", 40, "--temp", 0, "-st", "--chat-template", TEMPLATE,
        "--reasoning-budget", 3, "--reasoning-budget-message", " Enough."
    )  # fmt: skip
    assert code == 0 and " Enough.</think>" in out


def test_a_text_without_a_conversation_says_that_they_change_nothing(
    gguf_hub: Cli, data: Path, kernels: None
) -> None:
    model = data / "models" / "stories260K.f32.gguf"
    code, _, err = gguf_hub("run", model, "-p", "Once", "-n", 1, "--reasoning", "off")
    assert code == 0 and "only conversations have a template" in err
