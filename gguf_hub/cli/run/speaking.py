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
    if wanted.mode == "once":
        _once(writer, wanted, prompt, options, colour)
    elif wanted.mode == "text":
        _together(writer, wanted, prompt, options, colour)
    else:
        _converse(writer, wanted, prompt, metadata, options, colour)


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
    if not options["single_turn"]:
        _welcome()
    if prompt:
        if not options["no_display_prompt"] and not options["single_turn"]:
            _echo_prompt(f"> {prompt}\n", colour)
        session.turn(prompt)
    if not options["single_turn"]:
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
    _tell(f"the model brings no template: `{name}` is used; --chat-template names another")
    fallback = choose_format({}, name)
    assert fallback is not None
    return fallback


def _lines(options: dict[str, Any]) -> Any:
    from gguf_hub.cli.run.typing_lines import open_lines

    return open_lines(is_simple=options["simple_io"])


def _welcome() -> None:
    import sys

    if sys.stdin.isatty():
        _tell("/help lists the commands; Ctrl-C stops an answer, Ctrl-D ends")


def _echo_prompt(text: str, colour: bool | None) -> None:
    from gguf_hub.cli.console import style, write

    write(style(text, "yellow") if text else text, colour=colour)


def _show(text: str) -> None:
    from gguf_hub.cli.console import write

    write(text)


def _tell(text: str) -> None:
    from gguf_hub.cli.console import note

    note(text)
