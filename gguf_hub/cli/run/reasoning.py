"""Flags about reasoning and the variables of chat templates, for conversations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from gguf_hub.cli.options import together

_REASONING = {
    **dict.fromkeys(("on", "enabled", "true", "1"), True),
    **dict.fromkeys(("off", "disabled", "false", "0"), False),
    **dict.fromkeys(("auto", "-1"), None),
}
"""llama.cpp's words -> whether to reason; None: as the template does."""


class Reasoning(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """On, off or auto, in llama.cpp's words for them."""

    name = "on|off|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return one of llama.cpp's words."""
        if str(value) not in _REASONING:
            self.fail(f"`{value}`: expected on, off or auto", param, ctx)
        return str(value)


class Variables(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """A JSON object of variables of a chat template."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the variables."""
        import json

        from gguf_hub.errors import UsageError
        from gguf_hub.run.generation.chat_defaults import RESERVED, check_thinking

        if isinstance(value, dict):
            return value
        try:
            variables = json.loads(value)
        except (ValueError, RecursionError) as exc:
            self.fail(f"expected a JSON object, found {value!r:.60}: {exc}", param, ctx)
        if not isinstance(variables, dict):
            self.fail(f"expected a JSON object, found {value!r:.60}", param, ctx)
        if reserved := sorted(RESERVED & variables.keys()):
            self.fail(f"`{reserved[0]}` comes from the conversation and the model", param, ctx)
        try:
            check_thinking(variables)
        except UsageError as error:
            self.fail(error.message, param, ctx)
        return variables


reasoning_options = together(
    click.option("--chat-template-kwargs", type=Variables(), metavar="JSON",
                 help="More variables for the chat template, as a JSON object."),
    click.option("-rea", "--reasoning", type=Reasoning(), default="auto", metavar="on|off|auto",
                 help="Reason before answering, or not, where the chat template has a switch for "
                      "it; auto: as the template does."),
    click.option("--reasoning-effort", default="default", metavar="LEVEL",
                 help="Effort for the chat template: low, medium, high or what it knows; default: "
                      "as the template does."),
    click.option("--reasoning-budget", type=click.IntRange(-1), default=-1, metavar="N",
                 show_default=True,
                 help="Tokens of reasoning after which it is ended; 0: none, -1: no limit."),
    click.option("--reasoning-budget-message", default="", metavar="TEXT",
                 help="Text that stands before the end of reasoning that the budget ends."),
)  # fmt: skip
"""Add the options that ``chat_defaults`` reads."""
reasoning_format_option = click.option(
    "--reasoning-format", type=click.Choice(["none", "auto", "deepseek", "deepseek-legacy"]),
    default="auto", show_default=True,
    help="Where clients find reasoning: none: in the text of the answer; auto, deepseek: in "
         "`reasoning_content`; deepseek-legacy: in both.",
)  # fmt: skip


prefill_option = click.option(
    "--prefill-assistant/--no-prefill-assistant", default=True,
    help="Continue a last message of the assistant (default), or answer it.",
)  # fmt: skip


def chat_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of ``ChatDefaults`` that the flags say.

    Args:
        options: Those of ``reasoning_options``, and of ``serve`` the two others.
    """
    variables = dict(options["chat_template_kwargs"] or {})
    if options["reasoning_effort"] != "default":
        variables["reasoning_effort"] = options["reasoning_effort"]
    if (reasons := _REASONING[options["reasoning"]]) is not None:
        variables["enable_thinking"] = reasons
    return {
        "variables": variables,
        "reasoning_format": options.get("reasoning_format", "auto"),
        "reasoning_budget": options["reasoning_budget"],
        "budget_message": options["reasoning_budget_message"],
        "continues_answers": options.get("prefill_assistant", True),
    }
