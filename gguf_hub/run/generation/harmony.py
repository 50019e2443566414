"""gpt-oss's answers: messages for several channels.

A message is ``<|channel|>analysis<|message|>...<|end|>``; ``<|start|>assistant`` stands in front
of the next one. What stands in the header of a message, before ``<|message|>``, says what it is: a
call where it is addressed to a tool (``to=functions.NAME``), else reasoning (the channel
``analysis``) or text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection

from gguf_hub.run.generation.parts import CallDelta, Part, ReasoningDelta

_START, _CHANNEL, _MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
ANALYSIS = f"{_CHANNEL}analysis{_MESSAGE}", "<|end|>"
"""What stands around the reasoning."""
_ENDS = (_START, _CHANNEL, "<|end|>", "<|return|>", "<|call|>")
_HEADS = (*_ENDS, _MESSAGE, "<|constrain|>", "to=functions.")
"""How the rest of a header begins, after the role; other text has no header."""
_END = re.compile("|".join(map(re.escape, _ENDS)))
_RECIPIENT = re.compile(r"to=(?:functions\.)?([^\s<]+)")
_CHANNEL_NAME = re.compile(r"<\|channel\|>\s*(\w+)")
_BETWEEN = "\n\n"
"""Between messages of one kind."""


def is_harmony(template: str) -> bool:
    """Return whether a chat template writes gpt-oss's channels."""
    return _CHANNEL in template and _MESSAGE in template


class HarmonyParser:
    """Splits such an answer; the arguments of calls are passed on as they grow.

    Text without a header is text, and so is a message to a tool that there is not. What ends and
    begins messages is dropped.

    Args:
        tools: Names of the tools that may be called.
        prompt: Its last message is the one that the answer continues.
        max_calls: Calls to return; further ones are dropped.
    """

    def __init__(
        self, tools: Collection[str] = (), prompt: str = "", *, max_calls: int | None = None
    ) -> None:
        self._tools, self._max_calls = frozenset(tools), max_calls
        self._n_calls = 0
        self._seen: set[str] = set()  # kinds with text in messages before
        self._held = self._tool = ""
        self._has_text = False  # the message that is read
        self._arguments: list[str] = []  # of the call that is read
        self._is_header = False  # what follows can be nothing else
        _, mark, last = prompt.rpartition(_START)
        header, inside, _ = last.partition(_MESSAGE) if mark else ("", "", "")
        self._kind = self._kind_of(header) if inside else ""  # empty: in a header
        self._header = "" if inside else header  # what the prompt has of it

    def feed(self, text: str) -> list[Part]:
        """Add text; see ``AnswerParser``."""
        self._held += text
        parts: list[Part] = []
        while self._read_message(parts) if self._kind else self._read_header():
            pass
        return parts

    def finish(self) -> list[Part]:
        """Return the rest; a header that is not complete is none of it."""
        held, self._held = self._held, ""
        parts: list[Part] = []
        if self._kind:
            self._add(held, parts)
            self._close(parts)
        elif self._is_header or held.lstrip().startswith("<|"):
            self._kind = "header"
        elif held.strip():
            self._kind = "text"
            self._add(held, parts)
        return parts

    def finish_reason(self, reason: str) -> str:
        """Return ``tool_calls`` if there are any, unless the limit cut one short or more off."""
        if not self._n_calls or reason != "length":
            return "tool_calls" if self._n_calls else reason
        is_cut = self._kind not in ("", "call", "dropped")
        is_cut = is_cut or (self._kind == "call" and not _is_json("".join(self._arguments)))
        return reason if is_cut else "tool_calls"

    def _read_header(self) -> bool:
        """Read a header; return whether there is one, or text without."""
        text = self._held.lstrip()
        self._is_header |= text.startswith(_HEADS)
        if not self._is_header:
            is_text = not any(head.startswith(text) for head in _HEADS)
            self._kind = "text" if is_text else ""
            return is_text
        head, mark, rest = self._held.partition(_MESSAGE)
        if not mark:
            return False
        self._kind, self._held = self._kind_of(self._header + head), rest
        if self._kind == "call":
            self._n_calls += 1
            self._arguments = []
        return True

    def _kind_of(self, header: str) -> str:
        recipient, channel = _RECIPIENT.search(header), _CHANNEL_NAME.search(header)
        self._header, self._is_header = "", False
        if recipient is not None and recipient[1] in self._tools:
            if self._max_calls is not None and self._n_calls >= self._max_calls:
                return "dropped"
            self._tool = recipient[1]
            return "call"
        return "reasoning" if channel is not None and channel[1] == "analysis" else "text"

    def _read_message(self, parts: list[Part]) -> bool:
        """Read a message as far as it goes; return whether it has ended."""
        end = _END.search(self._held)
        if end is None:
            at = _open_mark(self._held)
            self._add(self._held[:at], parts)
            self._held = self._held[at:]
            return False
        self._add(self._held[: end.start()], parts)
        self._close(parts)
        self._kind, self._held = "", self._held[end.end() :]
        self._is_header = end[0] in (_START, _CHANNEL)
        self._header = end[0] if end[0] == _CHANNEL else ""
        return True

    def _close(self, parts: list[Part]) -> None:
        if self._kind == "call" and not self._arguments:
            self._add_arguments("", parts)
        self._seen |= {self._kind} if self._has_text else set()
        self._has_text = False

    def _add(self, text: str, parts: list[Part]) -> None:
        if not text or self._kind == "dropped":
            return
        if self._kind == "call":
            self._add_arguments(text, parts)
            return
        if self._kind in self._seen and not self._has_text:
            text = _BETWEEN + text
        self._has_text = True
        parts.append(ReasoningDelta(text) if self._kind == "reasoning" else text)

    def _add_arguments(self, text: str, parts: list[Part]) -> None:
        self._arguments.append(text)
        parts.append(CallDelta(self._n_calls - 1, self._tool, text))


def _open_mark(text: str) -> int:
    """Return where a mark may have begun that is not complete."""
    at = text.rfind("<")
    may_be = at >= 0 and any(end.startswith(text[at:]) for end in _ENDS)
    return at if may_be else len(text)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
