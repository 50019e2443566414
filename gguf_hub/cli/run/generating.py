"""Generating text: options of length, context and threads, and the command itself."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli.log_file import log_file_option
from gguf_hub.cli.options import (
    batch_size_option,
    require_at_least,
    special_option,
    threads_option,
    together,
)
from gguf_hub.cli.run.clustering import check_cluster, cluster_option, open_host
from gguf_hub.cli.run.offload import offload_request
from gguf_hub.cli.run.opening import check_drafts, draft_options
from gguf_hub.cli.run.rope import rope_change
from gguf_hub.cli.run.shifting import n_keep

if TYPE_CHECKING:
    from gguf_hub.cli.run.text_generator import TextGenerator
    from gguf_hub.cli.run.writing import RunSettings

generating_options = together(
    click.option("-n", "--predict", "--n-predict", default=-1, show_default=True, metavar="N",
                 help="Tokens to generate; -1: no limit, -2: until the context is full."),
    click.option("-c", "--ctx-size", default=0, show_default=True, metavar="N",
                 help="Context size in tokens; 0: the model's trained context."),
    batch_size_option,
    threads_option,
    draft_options,
    cluster_option,
    special_option,
    log_file_option,
    click.option("--ignore-eos", is_flag=True, help="Continue after the end-of-sequence token."),
    click.option("--perf/--no-perf", default=True, help="Print timings (default), or not."),
)  # fmt: skip
"""Add the options that ``generate`` reads, besides those of other modules."""
_LOWEST = {"predict": -2, "ctx_size": 0}


def check_generating(options: dict[str, Any]) -> None:
    """Refuse invalid values before anything is downloaded."""
    from gguf_hub.cli.run.prompt_cache import check_prompt_cache

    require_at_least(options, _LOWEST)
    rope_change(options)
    offload_request(options)
    n_keep(options)
    check_drafts(options)
    check_prompt_cache(options)
    check_cluster(options)


def generate(
    path: Path, prompt: str, config: Any, settings: RunSettings, options: dict[str, Any]
) -> None:
    """Load the model, print the text as it comes, then the timings."""
    from gguf_hub.cli.console import ConsoleProgress
    from gguf_hub.cli.run.opening import (
        NO_MMAP,
        draft_settings,
        drafter_of,
        model_settings,
        report_lost_pages,
    )
    from gguf_hub.cli.run.prompt_cache import prompt_cache
    from gguf_hub.cli.run.speaking import speak
    from gguf_hub.cli.run.text_generator import TextGenerator
    from gguf_hub.hub.programs.conversations import choose_chat_format
    from gguf_hub.run.opening import open_model

    start_time = time.perf_counter()
    progress = ConsoleProgress()
    draft = draft_settings(options, progress)
    model_config = model_settings(options, path, progress, n_ctx=options["ctx_size"])
    with (
        report_lost_pages(f"`{path}`", NO_MMAP),
        open_model(
            path, model_config, drafter=drafter_of(options), draft=draft,
            host=open_host(options, progress), is_generating=True, progress=progress,
        ) as loaded,
    ):  # fmt: skip
        loaded_s = time.perf_counter() - start_time
        generator = TextGenerator(loaded.engine(), loaded.tokenizer, config, options["predict"],
                               settings.grammar, settings.schema, options["ignore_eos"],
                               n_keep=n_keep(options),
                               prints_special=options["special"])  # fmt: skip
        try:
            if settings.mode in ("auto", "chat", "instruct"):
                metadata = loaded.file.metadata
                template = choose_chat_format(path, metadata, settings.template, progress)
                settings = replace(settings, template=template)
            with prompt_cache(generator, loaded, options):
                speak(generator, settings, prompt, loaded.file.metadata, options)
        finally:
            if options["perf"]:
                _print_timings(loaded_s, generator)


def _print_timings(loaded_s: float, generator: TextGenerator) -> None:
    from gguf_hub.cli.console import note
    from gguf_hub.units import format_duration

    timings = generator.timings
    note(
        f"\nload {format_duration(loaded_s)}"
        f" · prompt {timings.n_prompt} tokens, {timings.prompt_tok_per_s:.1f} tok/s"
        f" · generated {generator.n_generated} tokens, {timings.generate_tok_per_s:.1f} tok/s"
        + (f" · {timings.n_accepted} of {timings.n_drafted} drafted" if timings.n_drafted else "")
    )
