"""Looking for chat templates that are not about chat.

A template is a program that some loaders run as it stands. Those that chat need variables, loops
and filters; those that attack walk from an object to Python's insides. The scan warns; nothing here
renders anything.

Source: CVE-2024-34359 (llama-cpp-python), CVE-2026-5760 (SGLang) and their published payloads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gguf_hub.gguf.format import ValueType
from gguf_hub.gguf.header import Header
from gguf_hub.gguf.issues import Issues

_OPENING = re.compile(r"\{\{|\{%")
_CLOSING = {"{{": "}}", "{%": "%}"}
MOST_CHARACTERS = 1 << 20
"""Published templates have up to some 30,000."""
_SUSPECT = (
    (re.compile(r"__\w+__"), "a name of Python's machinery"),
    (re.compile(r"""['"]_+|_['"]\s*[~+*\]]"""), "a name put together from underscores"),
    (re.compile(r"\\(x5f|u005f|137)", re.IGNORECASE), "an escaped underscore"),
    (re.compile(r"\|\s*(attr|map\s*\(\s*attribute)\b"), "access to attributes by name"),
    (re.compile(r"\.\s*_\w+"), "a private attribute"),
    (re.compile(r"\b(cycler|joiner|lipsum|namespace|self|range|dict)\s*\.\s*[a-z_]*(init|globals)"),
     "a way to a function's globals"),
    (re.compile(r"\b(popen|subprocess|eval|exec|getattr|importlib|builtins|mro|subclasses)\b"),
     "a word of Python's insides"),
    (re.compile(r"\{%-?\s*(import|include|extends|from)\b"), "another template"),
)  # fmt: skip


def check_templates(header: Header, issues: Issues) -> None:
    """Scan every chat template of a file."""
    for key, field in header.fields.items():
        is_template = key == "tokenizer.chat_template" or key.startswith("tokenizer.chat_template.")
        if is_template and field.type is ValueType.STRING and (what := suspicious(field.value)):
            issues.add("GGUF-TEMPLATE", f"key `{key}`", f"holds {what}", field.offset)


def _code(template: str) -> Iterator[str]:
    """Yield what stands between braces, in time that grows with the template alone."""
    at, absent = 0, ""
    while opening := _OPENING.search(template, at):
        closing = _CLOSING[opening[0]]
        end = -1 if closing in absent else template.find(closing, opening.end())
        if end < 0:
            absent += closing  # from here on: a second search would read all the rest again
            at = opening.start() + 1
            continue
        at = end + 2
        yield template[opening.start() : at]


def suspicious(template: str) -> str:
    """Return what in the template is not about chat, in words; "" for nothing."""
    if len(template) > MOST_CHARACTERS:
        return f"{len(template):,} characters, of which none was looked at"
    code = "\n".join(_code(template))
    suspects = []
    for pattern, what in _SUSPECT:
        match = pattern.search(code)
        if match:
            suspects.append(f"{what} (`{match[0].strip()[:40]}`)")
    return ", ".join(suspects)
