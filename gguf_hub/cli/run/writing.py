"""llama.cpp's flags about the output: grammars, biases, stop texts, modes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli.options import together
from gguf_hub.cli.run.reasoning import chat_defaults, reasoning_options

if TYPE_CHECKING:
    from gguf_hub.run.generation.chat_defaults import ChatDefaults

_BIAS = re.compile(r"(\d+)([+-].+)")
_PATH = click.Path(path_type=Path)

# flags -> how click reads them
_FLAGS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("-l", "--logit-bias"), {"multiple": True, "metavar": "ID(+/-)BIAS",
     "help": "Bias for a token's logit: `29871-inf` bans it."}),
    (("--grammar",), {"metavar": "GBNF", "help": "GBNF grammar that constrains the output."}),
    (("--grammar-file",), {"type": _PATH, "metavar": "FILE", "help": "Same, read from a file."}),
    (("-j", "--json-schema"), {"metavar": "SCHEMA",
     "help": "JSON schema that constrains the output; `{}`: any JSON."}),
    (("-jf", "--json-schema-file"), {"type": _PATH, "metavar": "FILE",
     "help": "Same, read from a file."}),
    (("-r", "--reverse-prompt"), {"multiple": True, "metavar": "TEXT",
     "help": "Stop at this text and, in interactive mode, return control."}),
    (("-i", "--interactive"), {"is_flag": True, "help": "Interactive mode: take turns "
                                                        "continuing a text."}),
    (("-if", "--interactive-first"), {"is_flag": True, "help": "Interactive mode, waiting "
                                                               "for input first."}),
    (("-ins", "--instruct"), {"is_flag": True,
     "help": "Instruction mode: the model's chat template, or Alpaca's headings."}),
    (("-cnv/-no-cnv", "--conversation/--no-conversation"), {"default": None,
     "help": "Conversation mode, with the model's chat template, or never."}),
    (("-st", "--single-turn"), {"is_flag": True, "help": "Run the conversation for a single "
                                                         "turn, then exit."}),
    (("-sys", "--system-prompt"), {"metavar": "TEXT",
     "help": "System prompt; implies a conversation."}),
    (("-sysf", "--system-prompt-file"), {"type": _PATH, "metavar": "FILE",
     "help": "Same, read from a file."}),
    (("--in-prefix",), {"default": "", "metavar": "TEXT", "help": "Text added before your "
                                                                  "input."}),
    (("--in-suffix",), {"default": "", "metavar": "TEXT", "help": "Text added after your input."}),
    (("--prompt-cache",), {"type": _PATH, "metavar": "FILE",
     "help": "Cache the evaluated prompt in this file for a faster next start."}),
    (("--prompt-cache-all",), {"is_flag": True, "help": "Cache the output as well."}),
    (("--prompt-cache-ro",), {"is_flag": True, "help": "Read the prompt cache without "
                                                       "updating it."}),
    (("-co", "--color"), {"is_flag": False, "flag_value": "on", "default": "auto",
     "type": click.Choice(["on", "off", "auto"]), "help": "Colour output; auto: on a terminal."}),
    (("--simple-io",), {"is_flag": True, "help": "Basic input without line editing."}),
)  # fmt: skip


template_options = together(
    click.option("--chat-template", metavar="NAME",
                 help="Chat format by name, or a Jinja template."),
    click.option("--chat-template-file", type=_PATH, metavar="FILE", help="Jinja template file."),
)  # fmt: skip
"""Add the options that ``read_template`` reads."""
writing_options = together(
    *(click.option(*flags, **settings) for flags, settings in _FLAGS),
    template_options,
    reasoning_options,
)
"""Add the options that ``read_settings`` reads."""


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run.

    Attributes:
        grammar: GBNF, or None.
        schema: JSON schema as text, or None.
        logit_bias: Token id -> bias.
        stops: Texts at which the model stops.
        system: The system prompt, or None.
        template: Name or source of the chat format, or None.
        mode: ``"once"``, ``"text"`` (in turns), ``"instruct"``, ``"chat"``, or ``"auto"``: chat for
            a message or a terminal if the model has a chat template, else once.
        is_single: The conversation ends after one answer.
        may_be_piped: Read stdin if the flags have no prompt and it is not a terminal.
        chat: Template variables and reasoning of conversations.
    """

    grammar: str | None
    schema: str | None
    logit_bias: dict[int, float]
    stops: tuple[str, ...]
    system: str | None
    template: str | None
    mode: str
    is_single: bool
    may_be_piped: bool
    chat: ChatDefaults


def read_settings(options: dict[str, Any]) -> RunSettings:
    """Return the settings of the flags.

    Raises:
        UsageError: They contradict each other, or a value is invalid.
        GrammarError: A grammar or schema is wrong.
        GgufHubError: A file cannot be read.
    """
    from gguf_hub.cli.run.prompt import is_on_terminal, unescape
    from gguf_hub.errors import UsageError
    from gguf_hub.run.generation.chat_defaults import ChatDefaults

    grammar = _text_or_file(options, "grammar", "grammar_file")
    schema = _text_or_file(options, "json_schema", "json_schema_file")
    if grammar is not None and schema is not None:
        raise UsageError("--grammar and --json-schema both constrain the output: drop one of them")
    _check_constraint(grammar, schema)
    stops = tuple(options["reverse_prompt"])
    system = _text_or_file(options, "system_prompt", "system_prompt_file")
    mode = _mode(options, has_system=system is not None)
    is_implied = mode == "auto" or (mode == "chat" and not options["conversation"])
    return RunSettings(
        grammar=grammar,
        schema=schema,
        logit_bias=dict(_bias(text) for text in options["logit_bias"]),
        stops=tuple(map(unescape, stops)) if options["escape"] else stops,
        system=system,
        template=read_template(options),
        mode=mode,
        is_single=options["single_turn"]
        or (is_implied and (options["message"] is not None or not is_on_terminal())),
        may_be_piped=is_implied and not options["single_turn"],
        chat=ChatDefaults(**chat_defaults(options)),
    )


def read_template(options: dict[str, Any]) -> str | None:
    """Return the name or source of the chat format of the flags.

    Raises:
        GgufHubError: There is no such format, or the template cannot be used.
    """
    template = _text_or_file(options, "chat_template", "chat_template_file")
    if template is not None:
        from gguf_hub.run.chat import choose_format

        choose_format({}, template)
    return template


def _check_constraint(grammar: str | None, schema: str | None) -> None:
    """Refuse an invalid grammar or schema before anything is loaded; warn of what is not held."""
    if grammar is None and schema is None:
        return
    from gguf_hub.cli.console import warn
    from gguf_hub.run.grammar import Grammar

    if grammar is not None:
        Grammar.from_gbnf(grammar)
    if schema is not None:
        for item in Grammar.from_schema(schema, strict=False).left_out:
            warn(f"{item}: this is not enforced")


def _mode(options: dict[str, Any], *, has_system: bool) -> str:
    """Return the mode of the flags.

    Raises:
        UsageError: A system prompt without a conversation.
    """
    from gguf_hub.errors import UsageError

    if options["instruct"]:
        return "instruct"
    if options["conversation"] or options["single_turn"]:
        return "chat"
    is_text = options["interactive"] or options["interactive_first"]
    if has_system and (is_text or options["conversation"] is False):
        other = "-no-cnv" if options["conversation"] is False else "-i"
        raise UsageError(
            f"-sys sets the system prompt of a conversation, {other} continues a text",
            hint="drop one of them",
        )
    if is_text:
        return "text"
    if has_system:
        return "chat"
    is_text = options["prompt"] is not None or options["prompt_file"] is not None
    return "once" if is_text or options["conversation"] is False else "auto"


def _text_or_file(options: dict[str, Any], text_name: str, file_name: str) -> str | None:
    from gguf_hub.cli.run.prompt import read_text
    from gguf_hub.errors import UsageError

    text: str | None = options[text_name]
    path: Path | None = options[file_name]
    if text is not None and path is not None:
        flags = [f"--{name.replace('_', '-')}" for name in (text_name, file_name)]
        raise UsageError(f"{flags[0]} and {flags[1]} exclude each other: drop one of them")
    return text if path is None else read_text(path, file_name.removesuffix("_file"))


def _bias(text: str) -> tuple[int, float]:
    from gguf_hub.errors import UsageError

    match = _BIAS.fullmatch(text.strip())
    try:
        if match is not None:
            return int(match[1]), float(match[2])
    except ValueError:
        pass
    raise UsageError(
        f"--logit-bias {text}: expected a token id, a sign and a number", hint="write `15043+1`"
    )
