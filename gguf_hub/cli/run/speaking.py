"""How ``gguf-hub run`` speaks: one text, or a session in turns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from gguf_hub.cli.run.text_generator import TextGenerator
    from gguf_hub.cli.run.writing import RunSettings
    from gguf_hub.run.chat import ChatFormat

_FALLBACKS = {"chat": "chatml", "instruct": "alpaca"}


def speak(
    writer: TextGenerator,
    wanted: RunSettings,
    prompt: str,
    metadata: Mapping[str, Any],
    options: dict[str, Any],
) -> None:
    """Write what the flags ask for, to its end.

    Args:
        writer: Writes.
        wanted: What the flags ask for.
        prompt: What -p or -f says.
        metadata: Of the model, for its template.
        options: The other flags.
    """
    colour = {"on": True, "off": False}.get(options["color"])
    mode = _mode_for(wanted, prompt, metadata)
    if mode == "once":
        _once(writer, wanted, prompt, options, colour)
        _tell_if_full(writer)
    elif mode == "text":
        _together(writer, wanted, prompt, options, colour)
    else:
        _converse(writer, wanted, prompt, metadata, options, colour)


def _mode_for(wanted: RunSettings, prompt: str, metadata: Mapping[str, Any]) -> str:
    """Return how to speak with this model where the flags leave it open."""
    from gguf_hub.cli.run.prompt import is_on_terminal
    from gguf_hub.run.chat import TEMPLATE_KEY

    if wanted.mode != "auto":
        return wanted.mode
    has_template = wanted.template is not None or bool(metadata.get(TEMPLATE_KEY))
    if has_template and (prompt or is_on_terminal()):
        return "chat"
    if not prompt and is_on_terminal():
        _tell("no prompt and no chat template: the model writes any text; -p begins it\n")
    return "once"


def _tell_if_full(writer: TextGenerator) -> None:
    """Say so, and what would help, where the context ended the text."""
    if writer.is_context_full:
        n_ctx = writer.engine.model.n_ctx
        _tell(f"stopped: the context of {n_ctx:,} tokens is full; `-c {2 * n_ctx}` makes it "
              "larger, `--context-shift` discards half of it and continues")  # fmt: skip


def _once(
    writer: TextGenerator,
    wanted: RunSettings,
    prompt: str,
    options: dict[str, Any],
    colour: bool | None,
) -> None:
    from gguf_hub.cli.console import ConsoleProgress

    tokens = writer.tokenizer.encode(prompt, parse_special=True)
    if not options["no_display_prompt"]:
        _echo_prompt(prompt, colour)
    try:
        # text is printed as in llama.cpp, the space in front of the first word too
        pieces = writer.write(
            tokens, wanted.stops, ConsoleProgress(), is_whole=False, must_fit=True
        )
        for text in pieces:
            _show(text)
    finally:
        click.echo()


def _together(
    writer: TextGenerator,
    wanted: RunSettings,
    prompt: str,
    options: dict[str, Any],
    colour: bool | None,
) -> None:
    from gguf_hub.cli.run.session import TextSession

    session = TextSession(
        writer, _lines(options), _show, _tell, stops=wanted.stops,
        prefix=options["in_prefix"], suffix=options["in_suffix"],
    )  # fmt: skip
    if not options["no_display_prompt"]:
        _echo_prompt(prompt, colour)
    _welcome()
    session.begin(prompt, writes=not options["interactive_first"])
    session.loop()


def _converse(
    writer: TextGenerator,
    wanted: RunSettings,
    prompt: str,
    metadata: Mapping[str, Any],
    options: dict[str, Any],
    colour: bool | None,
) -> None:
    from gguf_hub.cli.run.session import ChatSession

    session = ChatSession(
        writer, _lines(options), _show, _tell, stops=_stops(wanted),
        chat_format=_format(writer, wanted, metadata), system=wanted.system,
    )  # fmt: skip
    if not wanted.is_single:
        _welcome()
    if prompt:
        if not options["no_display_prompt"] and not wanted.is_single:
            _echo_prompt(f"> {prompt}\n", colour)
        session.turn(prompt)
    if not wanted.is_single:
        session.loop()
    elif not prompt and (text := session.lines.read()):
        session.turn(text)


def _stops(wanted: RunSettings) -> tuple[str, ...]:
    headings = ("\n### Instruction:",) if wanted.mode == "instruct" else ()
    return (*wanted.stops, *headings)


def _format(writer: TextGenerator, wanted: RunSettings, metadata: Mapping[str, Any]) -> ChatFormat:
    """Return the format of the conversation; say which, where the model brings none."""
    from gguf_hub.run.chat import choose_format

    tokens, vocab = writer.tokenizer.vocab.tokens, writer.tokenizer
    found = choose_format(
        metadata,
        wanted.template,
        bos_token="" if vocab.bos_id is None else tokens[vocab.bos_id],
        eos_token="" if vocab.eos_id is None else tokens[vocab.eos_id],
    )
    if found is not None:
        return found
    name = _FALLBACKS[wanted.mode]
    _tell(f"the model has no chat template: `{name}` is used; --chat-template names another")
    fallback = choose_format({}, name)
    assert fallback is not None
    return fallback


def _lines(options: dict[str, Any]) -> Any:
    from gguf_hub.cli.run.typing_lines import open_lines

    return open_lines(is_simple=options["simple_io"])


def _welcome() -> None:
    import sys

    if sys.stdin.isatty():
        _tell("/? lists the commands; Ctrl-C stops an answer, /bye or Ctrl-D ends")


def _echo_prompt(text: str, colour: bool | None) -> None:
    from gguf_hub.cli.console import style, write

    write(style(text, "yellow") if text else text, colour=colour)


def _show(text: str) -> None:
    from gguf_hub.cli.console import write

    write(text)


def _tell(text: str) -> None:
    from gguf_hub.cli.console import note

    note(text)
