"""What Ollama wants to know of a GGUF, read from its header."""

from __future__ import annotations

from pathlib import Path

from gguf_hub.errors import UsageError
from gguf_hub.gguf.layout import read_table
from gguf_hub.gguf.metadata import Metadata, or_none
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.summary import summarize
from gguf_hub.hub.programs.go_templates import format_of
from gguf_hub.hub.programs.layouts import OllamaExtras
from gguf_hub.hub.programs.ollama import ModelFacts
from gguf_hub.oserrors import translate_os_errors

_MAX_TEMPLATE_BYTES = 1 << 20


def read_template(path: Path) -> str:
    """Return a template that the user wrote for Ollama.

    Raises:
        UsageError: It is too large, or no text.
        GgufHubError: It cannot be read.
    """
    with translate_os_errors(f"cannot read `{path}`"), path.open("rb") as file:
        data = file.read(_MAX_TEMPLATE_BYTES + 1)
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        raise UsageError(f"`{path}` is no text in UTF-8") from exc
    if len(data) > _MAX_TEMPLATE_BYTES:
        raise UsageError(f"`{path}` is larger than {_MAX_TEMPLATE_BYTES:,} bytes")
    return text


def read_extras(path: Path, sha256: str, template: str | None = None) -> tuple[OllamaExtras, bool]:
    """Read what Ollama writes down of a file.

    Args:
        path: The file.
        sha256: Of its content.
        template: A template of the user's; one for the file's own format when None.

    Returns:
        It, and whether the file has a template in a format that is not known here.

    Raises:
        GgufError: It is no GGUF that can be read.
    """
    with GgufFile.open(path) as file:
        summary = summarize(file.header, read_table(file.header))
        written = or_none(Metadata(file.fields).text, "tokenizer.chat_template") or ""
    facts = ModelFacts(
        sha256, summary.size_bytes, summary.architecture, summary.file_type, summary.n_params
    )
    if template is not None:
        return OllamaExtras(facts, template), False
    found = format_of(written)
    if found is None:
        return OllamaExtras(facts), bool(written)
    return OllamaExtras(facts, found.template, found.stop), False
