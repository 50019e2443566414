"""The modes of ``gguf-hub run``: one text, or a session in turns."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli import console

if TYPE_CHECKING:
    from gguf_hub.cli.run.text_generator import TextGenerator
    from gguf_hub.cli.run.writing import RunSettings
    from gguf_hub.run.chat import ChatFormat

_FALLBACKS = {"instruct": "alpaca"}


def speak(
    generator: TextGenerator,
    settings: RunSettings,
    prompt: str,
    metadata: Mapping[str, Any],
    options: dict[str, Any],
) -> None:
    """Generate one text or run a session, as the flags say.

    Args:
        generator: Generates texts.
        settings: Settings of the flags.
        prompt: The prompt; empty for none.
        metadata: The model's, for its chat template.
        options: The other flags.
    """
    from gguf_hub.run.generation.chat_defaults import ChatDefaults

    mode = _resolve_mode(settings, prompt, metadata)
    is_text = mode in ("once", "text")
    if is_text and settings.chat != ChatDefaults():
        console.note("flags about reasoning and the chat template change nothing here: only "
                     "conversations have a template, as with -cnv")  # fmt: skip
    if generator.prints_special and not is_text:
        generator.prints_special = False  # they would be in the messages, and end turns
        console.note("--special changes nothing in a conversation")
    if mode == "once":
        _generate_once(generator, settings, prompt, options)
        _report_full_context(generator)
    elif mode == "text":
        _text_session(generator, settings, prompt, options)
    else:
        _chat_session(generator, settings, prompt, metadata, options)


def _resolve_mode(settings: RunSettings, prompt: str, metadata: Mapping[str, Any]) -> str:
    """Return the mode; ``auto`` depends on model, prompt and terminal."""
    from gguf_hub.cli.run.prompt import is_on_terminal
    from gguf_hub.run.chat import own_template

    if settings.mode != "auto":
        return settings.mode
    has_template = settings.template is not None or bool(own_template(metadata))
    if has_template and (prompt or is_on_terminal()):
        return "chat"
    if not prompt and is_on_terminal():
        console.note("no prompt and no chat template: generating from nothing; -p gives a prompt\n")
    return "once"


def _report_full_context(generator: TextGenerator) -> None:
    if generator.is_context_full:
        n_ctx = generator.engine.model.n_ctx
        console.note(
            f"stopped: the context of {n_ctx:,} tokens is full; `-c {2 * n_ctx}` makes it larger, "
            "`--context-shift` discards half of it and continues"
        )


def _generate_once(
    generator: TextGenerator, settings: RunSettings, prompt: str, options: dict[str, Any]
) -> None:
    tokens = generator.tokenizer.encode(prompt, parse_special=True)
    _echo_prompt(prompt, options)
    try:
        # text is printed as in llama.cpp, the space in front of the first word too
        texts = generator.stream(
            tokens, settings.stops, console.ConsoleProgress(), is_standalone=False, must_fit=True
        )
        for text in texts:
            console.write(text)
    finally:
        click.echo()


def _text_session(
    generator: TextGenerator, settings: RunSettings, prompt: str, options: dict[str, Any]
) -> None:
    from gguf_hub.cli.run.session import TextSession
    from gguf_hub.cli.run.typing_lines import open_lines

    session = TextSession(
        generator, open_lines(is_simple=options["simple_io"]), console.write, console.note,
        settings.stops, prefix=options["in_prefix"], suffix=options["in_suffix"],
    )  # fmt: skip
    _echo_prompt(prompt, options)
    _welcome()
    session.begin(prompt, is_model_first=not options["interactive_first"])
    session.loop()


def _chat_session(
    generator: TextGenerator,
    settings: RunSettings,
    prompt: str,
    metadata: Mapping[str, Any],
    options: dict[str, Any],
) -> None:
    from gguf_hub.cli.run.session import ChatSession
    from gguf_hub.cli.run.typing_lines import open_lines

    session = ChatSession(
        generator, open_lines(is_simple=options["simple_io"]), console.write, console.note,
        _stops(settings), chat_format=_format(generator, settings, metadata),
        system=settings.system, defaults=settings.chat,
    )  # fmt: skip
    if not settings.is_single:
        _welcome()
    if prompt:
        if not settings.is_single:
            _echo_prompt(f"> {prompt}\n", options)
        session.turn(prompt)
    if not settings.is_single:
        session.loop()
    elif not prompt and (text := session.lines.read()):
        session.turn(text)


def _stops(settings: RunSettings) -> tuple[str, ...]:
    headings = ("\n### Instruction:",) if settings.mode == "instruct" else ()
    return (*settings.stops, *headings)


def _format(
    generator: TextGenerator, settings: RunSettings, metadata: Mapping[str, Any]
) -> ChatFormat:
    from gguf_hub.run.generation.chat import format_of

    name = _FALLBACKS.get(settings.mode, "chatml")
    chat_format, is_fallback = format_of(
        metadata, settings.template, generator.tokenizer, fallback=name
    )
    if is_fallback:
        console.note(
            f"the model has no chat template: using `{name}`; --chat-template names another"
        )
    return chat_format


def _welcome() -> None:
    if sys.stdin.isatty():
        console.note("/? lists the commands; Ctrl-C stops an answer, /bye or Ctrl-D ends")


def _echo_prompt(text: str, options: dict[str, Any]) -> None:
    colour = {"on": True, "off": False}.get(options["color"])
    if not options["no_display_prompt"]:
        console.write(console.style(text, "yellow") if text else text, colour=colour)
