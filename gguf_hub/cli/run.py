"""``gguf-hub run``: generate text with a model, under llama.cpp's flags."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli.opening import opening_options
from gguf_hub.cli.options import batch_size_option, catalog_option, offline_option
from gguf_hub.cli.sampling import sampling_options
from gguf_hub.cli.writing import read_wanted, writing_options

if TYPE_CHECKING:
    from gguf_hub.cli.writing import Wanted
    from gguf_hub.engine import Engine, Timings

CONTEXT = {"token_normalize_func": lambda name: name.replace("_", "-")}
"""Underscores and dashes alike, as llama.cpp takes them: ``--repeat_penalty``."""


@click.command("run", context_settings=CONTEXT)
@click.argument("model", required=False)
@click.option("-m", "--model", "model_option", metavar="MODEL", help="As the argument.")
@click.option("-p", "--prompt", default=None, help="Text to start from.")
@click.option(
    "-f",
    "--file",
    "prompt_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Read the prompt from a file; `-` is stdin.",
)
@click.option(
    "-n",
    "--predict",
    "--n-predict",
    default=-1,
    show_default=True,
    metavar="N",
    help="Tokens to generate; -1 until the context is full.",
)
@click.option(
    "-c",
    "--ctx-size",
    default=0,
    show_default=True,
    metavar="N",
    help="Context in tokens; 0 for what the model was trained on.",
)
@batch_size_option
@click.option(
    "-t",
    "--threads",
    default=0,
    metavar="N",
    help="Threads; 0 for as many physical cores as pay.",
)
@click.option(
    "-ngl",
    "--n-gpu-layers",
    "--gpu-layers",
    default=None,
    metavar="N",
    help="Accepted for llama.cpp's sake; everything runs on the CPU.",
)
@click.option(
    "--lookup",
    default=0,
    show_default=True,
    metavar="N",
    help="Guess up to N tokens from the text so far and check them in one pass.",
)
@opening_options
@sampling_options
@writing_options
@click.option(
    "-e",
    "--escape/--no-escape",
    default=True,
    show_default=True,
    help="Read \\n, \\t and so on in the prompt.",
)
@click.option("--ignore-eos", is_flag=True, help="Go on after the end-of-sequence token.")
@click.option("--no-display-prompt", is_flag=True, help="Print only what is generated.")
@click.option("--revision", metavar="REV", help="Branch, tag or commit, for a file of the hub.")
@click.option("--token", metavar="TOKEN", help="Hugging Face token (also HF_TOKEN).")
@click.option("-y", "--yes", is_flag=True, help="Download without asking.")
@click.option("--no-perf", is_flag=True, help="Do not print timings.")
@offline_option
@catalog_option
def command(model: str | None, model_option: str | None, **options: Any) -> None:
    """Generate text with a model.

    MODEL is a path, a quant of the catalog (Q4_K_M), org/repo:QUANT, org/repo/file.gguf or hf://…;
    without one, the quant that fits this machine is picked. What is not on disk is downloaded and
    verified first. Text goes to stdout, timings to stderr.
    """
    from gguf_hub.cli import console
    from gguf_hub.sampler import SamplerConfig

    if model and model_option:
        raise click.UsageError("MODEL is given twice, as an argument and with -m")
    sampling = {name: options[name] for name in sampling_options.names}
    wanted = read_wanted(options)
    config = SamplerConfig.from_options(**sampling, logit_bias=wanted.logit_bias)
    _check(options)
    prompt = _prompt(options)
    if options["n_gpu_layers"] not in (None, "0"):
        console.note("-ngl is ignored: this runner computes on the CPU")
    path = _path(model or model_option, options)
    _generate(path, prompt, config, wanted, options)


def _check(options: dict[str, Any]) -> None:
    """Refuse values that can never be right, before anything is downloaded."""
    lowest = {"predict": -2, "ctx_size": 0, "batch_size": 1, "threads": -1, "lookup": 0}
    for name, low in lowest.items():
        if options[name] < low:
            flag = "--" + name.replace("_", "-")
            raise click.UsageError(f"{flag} {options[name]}: expected {low} or more")


def _prompt(options: dict[str, Any]) -> str:
    """Return the prompt from -p or -f, escapes resolved."""
    from gguf_hub.cli.prompt import read_prompt

    return read_prompt(options["prompt"], options["prompt_file"], escape=options["escape"])


def _path(model: str | None, options: dict[str, Any]) -> Path:
    """Return the model file, fetched first where it is not on disk."""
    from gguf_hub.cli.console import ConsoleProgress
    from gguf_hub.cli.models import DEFAULT_N_CTX, resolve_model

    return resolve_model(
        model,
        catalog_path=options["catalog_path"],
        token=options["token"],
        revision=options["revision"],
        progress=ConsoleProgress(),
        assume_yes=options["yes"],
        n_ctx=options["ctx_size"] or DEFAULT_N_CTX,
    )


def _generate(
    path: Path, prompt: str, config: Any, wanted: Wanted, options: dict[str, Any]
) -> None:
    """Load the model, print the text as it comes, then the timings."""
    from gguf_hub.cli.console import ConsoleProgress
    from gguf_hub.cli.opening import open_file, open_model
    from gguf_hub.cli.prompt_cache import prompt_cache
    from gguf_hub.cli.speaking import speak
    from gguf_hub.cli.writer import Writer
    from gguf_hub.engine import Engine
    from gguf_hub.lookup import PromptLookup
    from gguf_hub.tokenizer import load_tokenizer

    began = time.perf_counter()
    progress = ConsoleProgress()
    n_threads = max(0, options["threads"])
    with (
        open_file(path, options, progress) as file,
        open_model(
            file,
            options,
            progress,
            n_ctx=options["ctx_size"],
            n_threads=n_threads,
            n_logits=options["lookup"] + 1,
        ) as model,
    ):
        tokenizer = load_tokenizer(file.metadata)
        engine = Engine(model)
        loaded_s = time.perf_counter() - began
        writer = Writer(engine, tokenizer, config, options["predict"], wanted.grammar,
                        wanted.schema, options["ignore_eos"])  # fmt: skip
        if options["lookup"]:
            writer.drafter = PromptLookup(options["lookup"])
        try:
            with prompt_cache(engine, model, options):
                speak(writer, wanted, prompt, file.metadata, options)
        finally:
            if not options["no_perf"]:
                _print_timings(loaded_s, engine.timings)
        _tell_if_full(engine, options["predict"])


def _tell_if_full(engine: Engine, wanted: int) -> None:
    """Say so, and what would help, where the context ended the text."""
    from gguf_hub.cli.console import note

    if engine.finish_reason == "length" and engine.timings.n_generated != wanted:
        n_ctx = engine.model.n_ctx
        note(f"stopped: the context of {n_ctx:,} tokens is full; `-c {2 * n_ctx}` makes it larger")


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
