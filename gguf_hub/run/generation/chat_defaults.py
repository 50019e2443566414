"""What conversations have where a request does not say: template variables, reasoning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gguf_hub.errors import UsageError

RESERVED = frozenset(
    ("self", "messages", "tools", "add_generation_prompt", "documents", "bos_token", "eos_token")
)
"""Variables of templates that come from the conversation and the model."""
REASONING_FORMATS = ("none", "auto", "deepseek", "deepseek-legacy")
"""Where reasoning stands in an answer: in its text, beside it (two names), or in both."""


@dataclass(frozen=True)
class ChatDefaults:
    """Settings of conversations whose request does not have them.

    Attributes:
        variables: More values for the chat template.
        reasoning_format: One of ``REASONING_FORMATS``.
        reasoning_budget: Tokens of reasoning after which it is ended; -1 for no limit.
        budget_message: Text that stands before the end of reasoning that was ended.
        continues_answers: Whether a last message of the assistant is continued.
    """

    variables: Mapping[str, Any] = field(default_factory=dict)
    reasoning_format: str = "auto"
    reasoning_budget: int = -1
    budget_message: str = ""
    continues_answers: bool = True

    def variables_for(
        self, given: Mapping[str, Any] | None, effort: str | None, budget: int
    ) -> dict[str, Any]:
        """Return the template variables of a request.

        Args:
            given: Those that the request has; reserved ones are left out.
            effort: Its ``reasoning_effort``; ``none`` turns reasoning off.
            budget: Tokens of reasoning; 0 turns it off, too.

        Raises:
            UsageError: ``enable_thinking`` is a text.
        """
        variables = dict(self.variables)
        if budget == 0:
            variables["enable_thinking"] = False
        if effort == "none":
            variables.pop("reasoning_effort", None)
            variables["enable_thinking"] = False
        elif effort is not None:
            variables["reasoning_effort"] = effort
        variables |= {name: v for name, v in (given or {}).items() if name not in RESERVED}
        check_thinking(variables)
        return variables


def check_thinking(variables: Mapping[str, Any]) -> None:
    """Refuse a text that says whether to reason: in a template, ``"false"`` is true.

    Raises:
        UsageError: There is one.
    """
    value = variables.get("enable_thinking")
    if isinstance(value, str):
        raise UsageError(f'enable_thinking: expected true or false, found the text "{value:.60}"',
                         hint="write it without quotes")  # fmt: skip
