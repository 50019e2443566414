"""Conversation formats in the template language of Ollama (Go's), by what their marks look like.

Ollama does not read the template that a GGUF holds: it wants one of its own beside it. Each row is
what stands around the system message, the user's and the answer.

Source: the model cards of the formats; docs/template.md of Ollama for the language.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GoFormat:
    """A format.

    Attributes:
        name: What it is called.
        mark: A text that templates of the format contain.
        system: Around the system message; None: it stands in front of the user's first text.
        user: Around the user's text.
        answer: Around the answer.
        stop: Texts at which an answer ends.
    """

    name: str
    mark: str
    system: tuple[str, str] | None
    user: tuple[str, str]
    answer: tuple[str, str]
    stop: tuple[str, ...]

    @property
    def template(self) -> str:
        """The template."""
        before, after = self.user
        text = "{{ .Prompt }}"
        head = ""
        if self.system is None:
            text = "{{ if .System }}{{ .System }}\n\n{{ end }}" + text
        else:
            head = "{{ if .System }}" + "{{ .System }}".join(self.system) + "{{ end }}"
        turn = f"{{{{ if .Prompt }}}}{before}{text}{after}{{{{ end }}}}"
        return f"{head}{turn}{self.answer[0]}{{{{ .Response }}}}{self.answer[1]}"


_LLAMA_3 = "<|start_header_id|>{}<|end_header_id|>\n\n"
FORMATS = (
    GoFormat(
        "chatml", "<|im_start|>",
        ("<|im_start|>system\n", "<|im_end|>\n"), ("<|im_start|>user\n", "<|im_end|>\n"),
        ("<|im_start|>assistant\n", "<|im_end|>\n"), ("<|im_start|>", "<|im_end|>"),
    ),
    GoFormat(
        "llama3", "<|start_header_id|>",
        (_LLAMA_3.format("system"), "<|eot_id|>"), (_LLAMA_3.format("user"), "<|eot_id|>"),
        (_LLAMA_3.format("assistant"), "<|eot_id|>"),
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    GoFormat(
        "gemma", "<start_of_turn>",
        None, ("<start_of_turn>user\n", "<end_of_turn>\n"),
        ("<start_of_turn>model\n", "<end_of_turn>\n"), ("<start_of_turn>", "<end_of_turn>"),
    ),
    GoFormat(
        "mistral", "[INST]", None, ("[INST] ", " [/INST]"), (" ", "</s>"), ("[INST]", "[/INST]")
    ),
    GoFormat(
        "phi3", "<|end|>",
        ("<|system|>\n", "<|end|>\n"), ("<|user|>\n", "<|end|>\n"),
        ("<|assistant|>\n", "<|end|>\n"),
        ("<|end|>", "<|user|>", "<|assistant|>"),
    ),
    GoFormat(
        "zephyr", "<|user|>",
        ("<|system|>\n", "</s>\n"), ("<|user|>\n", "</s>\n"), ("<|assistant|>\n", "</s>\n"),
        ("<|system|>", "<|user|>", "<|assistant|>", "</s>"),
    ),
)  # fmt: skip


def format_of(chat_template: str) -> GoFormat | None:
    """Return the format of a template that a GGUF holds; None for one that is not known here."""
    # gpt-oss writes `<|end|>` too, and a conversation of it has channels
    if "<|channel|>" in chat_template:
        return None
    return next((each for each in FORMATS if each.mark in chat_template), None)
