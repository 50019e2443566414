"""``gguf-hub embed``: vectors of texts, or a reranker's scores, under llama-embedding's flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gguf_hub.cli.compatibility import ignored_options
from gguf_hub.cli.options import CONTEXT, batch_size_option, json_option, threads_option
from gguf_hub.cli.pooling import pooling_options, pooling_settings
from gguf_hub.cli.run.opening import opening_options
from gguf_hub.cli.run.rope import rope_options
from gguf_hub.cli.source import source_flags


@click.command("embed", context_settings=CONTEXT)
@click.argument("arguments", nargs=-1, metavar="MODEL [TEXT]...")
@click.option("-p", "--prompt", metavar="TEXT", help="Texts, one per line.")
@click.option("-f", "--file", "text_path", type=click.Path(path_type=Path), metavar="FILE",
              help="Read texts from a file, one per line; `-` is stdin.")  # fmt: skip
@pooling_options
@click.option("--embd-separator", default="\\n", show_default=True, metavar="TEXT",
              help="What parts the texts of -p, -f and stdin.")  # fmt: skip
@click.option("--cls-separator", default="\\t", show_default=True, metavar="TEXT",
              help="What parts query and document in a text for a reranker.")  # fmt: skip
@click.option("--embd-output-format", "form", type=click.Choice(["raw", "array", "json", "json+"]),
              default="raw", show_default=True,
              help="raw: a line of numbers for each vector; array: [[...], ...]; json: as OpenAI's "
                   "API; json+: with cosine similarities.")  # fmt: skip
@json_option
@click.option("-c", "--ctx-size", type=click.IntRange(0), default=4096, show_default=True,
              metavar="N", help="Most tokens of a text, as far as the model was trained; 0: its "
                                "trained context.")  # fmt: skip
@batch_size_option
@threads_option
@opening_options
@rope_options
@source_flags
@ignored_options("embed")
def command(**options: Any) -> None:
    """Print vectors of texts, or a reranker's scores.

    Texts are arguments, or lines of -p, of a file, or of what is piped in. They are pooled as the
    model's file says, to one vector each of length 1; a reranker gives a score for each class
    instead, of texts with a query, a tab and a document.
    """
    from gguf_hub.cli.console import ConsoleProgress
    from gguf_hub.cli.run.embedding import embed, read_texts
    from gguf_hub.cli.run.offload import offload_request
    from gguf_hub.cli.run.rope import rope_change
    from gguf_hub.cli.source import fetch_argument, model_argument

    # 1) check the options without a model
    is_named = options["model_option"] or options["hf_repo"]
    names = () if is_named else options["arguments"][:1]
    argument = model_argument({**options, "model": names[0] if names else None})
    if argument is None:
        raise click.UsageError("expected a MODEL, as the first argument, with -m or with -hf")
    pooling = pooling_settings(options)
    rope_change(options)
    offload_request(options)
    texts = read_texts(options["arguments"][len(names) :], options)
    # 2) open the model and compute
    progress = ConsoleProgress()
    path = fetch_argument(argument, options, progress, options["ctx_size"])
    embed(path, texts, options, pooling, progress)
