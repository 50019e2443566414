"""The chat template that a GGUF file carries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from gguf_hub.errors import BudgetError, ChatTemplateError
from gguf_hub.gguf.metadata import Metadata
from gguf_hub.gguf.strings import StringArray
from gguf_hub.run.chat import generic
from gguf_hub.run.chat.messages import ChatPrompt, Message, merge_system, plain_data, plain_messages

TEMPLATE_KEY = "tokenizer.chat_template"

_HINT = "choose a format by name with --chat-template (chatml, llama-3, mistral-instruct, ...)"


def own_template(metadata: Mapping[str, Any]) -> str:
    """Return the template of a model's metadata; empty where it has none.

    Raises:
        UnsupportedGgufError: It is no text, nor an array of one.
    """
    metadata = Metadata.of(metadata)
    value = metadata.raw(TEMPLATE_KEY)
    if isinstance(value, (StringArray, list)) and len(value) == 1:
        return value[0]
    return metadata.text(TEMPLATE_KEY, "")


class TemplateFormat:
    """A jinja template, rendered as transformers and llama.cpp render it, in a sandbox.

    A template without system messages (it raises, or drops the text) gets it in front of the
    user's first message. Other roles, calls and tools that it does not print are put into words
    (``generic``).

    Args:
        source: The template.
        bos_token: Text of the token that begins a text.
        eos_token: Text of the token that ends one.

    Raises:
        ChatTemplateError: The template has an error.
    """

    def __init__(self, source: str, *, bos_token: str = "", eos_token: str = "") -> None:
        from gguf_hub.run.chat import costs, sandbox

        self.source = source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._budget = costs.rendering_budget
        with self._translate_errors():
            self._template = sandbox.Sandbox().template(source)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> ChatPrompt:
        """Return the prompt of a conversation (see ``ChatFormat``)."""
        plain = plain_messages(messages)
        if "developer" not in self.source:
            plain = generic.system_developers(plain)
        values = plain_data("variables", {"documents": None, **variables})
        values["add_generation_prompt"] = add_generation_prompt
        given = plain_data("tools", tools)
        text = self._render_all(plain, tools=given, **values)
        if tools and text == self._render_all(plain, tools=None, **values):
            text = self._render_all(generic.with_tools(plain, given), tools=None, **values)
        return ChatPrompt(text)

    def _render_all(self, messages: list[dict[str, Any]], **values: Any) -> str:
        """Render messages, those that the template does not print as text of other roles."""
        special = generic.special_turns(messages)
        try:
            text = self._render_turns(messages, **values)
            if not special:
                return text
            marks = self._render_turns(generic.marked(messages, special), **values)
            if not generic.unprinted(marks, special):
                return text
        except ChatTemplateError:
            if not special:
                raise
        return self._render_turns(generic.plain_turns(messages), **values)

    def _render_turns(self, messages: list[dict[str, Any]], **values: Any) -> str:
        if messages and messages[0]["role"] == "system" and not self.has_system_role:
            messages = merge_system(messages)
        return self._render(messages, **values)

    @cached_property
    def has_system_role(self) -> bool:
        """Whether a system message reaches the prompt; tried out once."""
        probe = [{"role": "system", "content": "«system»"}, {"role": "user", "content": "«user»"}]
        try:
            return "«system»" in self._render(probe, add_generation_prompt=True, tools=None)
        except ChatTemplateError:
            return False

    def _render(self, messages: list[dict[str, Any]], **values: Any) -> str:
        with self._translate_errors(), self._budget():
            return str(self._template.render(**self._tokens, messages=messages, **values))

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Turn every failure of a template into one error."""
        from jinja2.exceptions import TemplateError, TemplateSyntaxError

        try:
            yield
        except TemplateSyntaxError as exc:
            raise ChatTemplateError(
                f"the chat template has an error in line {exc.lineno}: {exc.message}", hint=_HINT
            ) from exc
        except (TemplateError, BudgetError) as exc:
            raise ChatTemplateError(
                f"the chat template cannot be applied: {exc.message}", hint=_HINT
            ) from exc
        except RecursionError as exc:
            raise ChatTemplateError("the chat template nests too deeply", hint=_HINT) from exc
        except Exception as exc:  # a template is a program: it can fail in any way
            raise ChatTemplateError(
                f"the chat template fails: {type(exc).__name__}: {exc}", hint=_HINT
            ) from exc
