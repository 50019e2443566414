"""Generating text: the options about how much and with what, and the loop that they steer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli.options import batch_size_option, require_at_least, together
from gguf_hub.cli.run.rope import rope_change
from gguf_hub.cli.run.shifting import n_keep

if TYPE_CHECKING:
    from gguf_hub.cli.run.writing import RunSettings
    from gguf_hub.run.generation.engine import Timings

generating_options = together(
    click.option("-n", "--predict", "--n-predict", default=-1, show_default=True, metavar="N",
                 help="Tokens to generate; -1: no limit, -2: until the context is full."),
    click.option("-c", "--ctx-size", default=0, show_default=True, metavar="N",
                 help="Context size in tokens; 0: the model's trained context."),
    batch_size_option,
    click.option("-t", "--threads", default=0, metavar="N",
                 help="Threads; 0: as many physical cores as help."),
    click.option("--lookup", default=0, show_default=True, metavar="N",
                 help="Prompt lookup decoding: draft up to N tokens from the text so far and "
                      "check them in one pass."),
    click.option("--ignore-eos", is_flag=True, help="Continue after the end-of-sequence token."),
    click.option("--perf/--no-perf", default=True, help="Print timings (default), or not."),
)  # fmt: skip
"""Add the options that ``generate`` reads, besides those of other rooms."""
_LOWEST = {"predict": -2, "ctx_size": 0, "batch_size": 1, "threads": -1, "lookup": 0}


def check_generating(options: dict[str, Any]) -> None:
    """Refuse values that can never be right, before anything is downloaded."""
    from gguf_hub.cli.run.prompt_cache import check_prompt_cache

    require_at_least(options, _LOWEST)
    rope_change(options)
    n_keep(options)
    check_prompt_cache(options)


def generate(
    path: Path, prompt: str, config: Any, wanted: RunSettings, options: dict[str, Any]
) -> None:
    """Load the model, print the text as it comes, then the timings."""
    from gguf_hub.cli.console import ConsoleProgress
    from gguf_hub.cli.run.opening import open_file, open_model
    from gguf_hub.cli.run.prompt_cache import prompt_cache
    from gguf_hub.cli.run.speaking import speak
    from gguf_hub.cli.run.text_generator import TextGenerator
    from gguf_hub.run.generation.engine import Engine
    from gguf_hub.run.generation.lookup import PromptLookup
    from gguf_hub.run.tokenizer import load_tokenizer

    began = time.perf_counter()
    progress = ConsoleProgress()
    limits = {"n_ctx": options["ctx_size"], "n_threads": max(0, options["threads"]),
              "n_logits": options["lookup"] + 1, "rope": rope_change(options)}  # fmt: skip
    with (
        open_file(path, options, progress) as file,
        open_model(file, options, progress, **limits) as model,
    ):
        tokenizer = load_tokenizer(file.metadata)
        engine = Engine(model)
        loaded_s = time.perf_counter() - began
        writer = TextGenerator(engine, tokenizer, config, options["predict"], wanted.grammar,
                        wanted.schema, options["ignore_eos"], n_keep=n_keep(options))  # fmt: skip
        if options["lookup"]:
            writer.drafter = PromptLookup(options["lookup"])
        try:
            with prompt_cache(engine, model, file, options):
                speak(writer, wanted, prompt, file.metadata, options)
        finally:
            if options["perf"]:
                _print_timings(loaded_s, engine.timings)


def _print_timings(loaded_s: float, timings: Timings) -> None:
    """Print what loading, prompt and generation took, on stderr."""
    from gguf_hub.cli.console import note
    from gguf_hub.units import format_duration

    note(
        f"\nload {format_duration(loaded_s)}"
        f" · prompt {timings.n_prompt} tokens, {timings.prompt_tok_per_s:.1f} tok/s"
        f" · generated {timings.n_generated} tokens, {timings.generate_tok_per_s:.1f} tok/s"
        + (f" · {timings.n_accepted} of {timings.n_drafted} guesses" if timings.n_drafted else "")
    )
