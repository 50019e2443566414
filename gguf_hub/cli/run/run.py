"""``gguf-hub run``: generate text with a model, under llama.cpp's flags."""

from __future__ import annotations

from typing import Any

import click

from gguf_hub.cli.compatibility import ignored_options
from gguf_hub.cli.options import CONTEXT
from gguf_hub.cli.run.generating import generating_options
from gguf_hub.cli.run.opening import opening_options
from gguf_hub.cli.run.prompt import prompt_options
from gguf_hub.cli.run.rope import rope_options
from gguf_hub.cli.run.sampling import sampling_options
from gguf_hub.cli.run.shifting import shifting_options
from gguf_hub.cli.run.writing import writing_options
from gguf_hub.cli.source import source_options


@click.command("run", context_settings=CONTEXT)
@prompt_options
@generating_options
@shifting_options
@opening_options
@rope_options
@sampling_options
@writing_options
@source_options
@click.argument("message", required=False, metavar="[PROMPT]")
@ignored_options("run")
def command(**options: Any) -> None:
    """Generate text.

    MODEL is a path, a quant of the catalog (Q4_K_M), org/repo:QUANT, org/repo/file.gguf or hf://...;
    without it, picks the quant that fits this machine. Missing files are downloaded and verified
    first; a folder or repository with a checkpoint in safetensors is converted, once. Text goes to
    stdout, timings to stderr.

    -p and -f give the beginning of a text. PROMPT, or what is piped in, is a message to a model
    with a chat template, and the beginning of a text for other models. Without any of them, a model
    with a chat template opens a conversation on a terminal.
    """
    from gguf_hub.cli.console import ConsoleProgress
    from gguf_hub.cli.run.generating import check_generating, generate
    from gguf_hub.cli.run.prompt import read_prompt
    from gguf_hub.cli.run.writing import read_settings
    from gguf_hub.cli.source import fetch_model, model_argument
    from gguf_hub.run.sampler import SamplerConfig

    # 1) check the options without a model
    model_argument(options)
    settings = read_settings(options)
    sampling = sampling_options.settings(options)
    config = SamplerConfig.from_options(**sampling, logit_bias=settings.logit_bias)
    check_generating(options)
    prompt = read_prompt(options, may_be_piped=settings.may_be_piped)
    # 2) open the model and generate
    path = fetch_model(options, ConsoleProgress(), options["ctx_size"])
    generate(path, prompt, config, settings, options)
