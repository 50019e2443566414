"""``gguf-hub serve``: a model for other programs and for a browser, over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gguf_hub.cli.compatibility import ignored_options
from gguf_hub.cli.log_file import log_file_option
from gguf_hub.cli.options import CONTEXT, batch_size_option, special_option, threads_option
from gguf_hub.cli.pooling import pooling_options, pooling_settings
from gguf_hub.cli.run.clustering import check_cluster, cluster_option
from gguf_hub.cli.run.opening import draft_options, opening_options
from gguf_hub.cli.run.reasoning import (
    prefill_option,
    reasoning_format_option,
    reasoning_options,
)
from gguf_hub.cli.run.rope import rope_options
from gguf_hub.cli.run.sampling import sampling_options
from gguf_hub.cli.run.shifting import shifting_options
from gguf_hub.cli.run.writing import template_options
from gguf_hub.cli.serve.offering import offering_options
from gguf_hub.cli.serve.routing import router_options
from gguf_hub.cli.serve.variables import drop_variables_of_models, read_variables
from gguf_hub.cli.source import source_flags


@read_variables
@click.command("serve", context_settings=CONTEXT)
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True,
              help="Port to listen on.")  # fmt: skip
@click.option("-c", "--ctx-size", type=click.IntRange(0), default=4096, show_default=True,
              metavar="N",
              help="Context of each request; 0: the model's trained context.")  # fmt: skip
@click.option("-np", "--parallel", type=click.IntRange(1, 256), default=4, show_default=True,
              metavar="N", help="Number of slots: requests decoded at once.")  # fmt: skip
@click.option("--queue", type=click.IntRange(0), default=64, show_default=True, metavar="N",
              help="Requests that may wait for a slot; more get 429.")  # fmt: skip
@batch_size_option
@threads_option
@click.option("-a", "--alias", metavar="NAME", help="Model name reported to clients.")
@click.option("-n", "--predict", "--n-predict", type=click.IntRange(-2), default=-1, metavar="N",
              show_default=True,
              help="Tokens of an answer where the request sets no limit; -1: none.")  # fmt: skip
@template_options
@reasoning_options
@reasoning_format_option
@prefill_option
@click.option("--api-key", "api_keys", multiple=True, metavar="KEY",
              help="API key that clients must send, or a comma-separated list "
                   "(also GGUF_HUB_API_KEY and LLAMA_API_KEY).")  # fmt: skip
@click.option("--api-key-file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Read API keys from a file, one per line; `#` begins a comment.")  # fmt: skip
@click.option("--ssl-key-file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Private key of HTTPS, in PEM; with --ssl-cert-file.")  # fmt: skip
@click.option("--ssl-cert-file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Certificate of HTTPS, with its chain, in PEM.")  # fmt: skip
@click.option("--allowed-host", "allowed_hosts", multiple=True, metavar="NAME",
              help="Also accept requests addressed to this host name, as behind a reverse proxy; "
                   "`*` for any. On a loopback address only loopback names are accepted "
                   "otherwise.")  # fmt: skip
@click.option("--cors", "origins", multiple=True, metavar="ORIGIN",
              help="Accept requests from pages of this origin; `*` for any.")  # fmt: skip
@click.option("--max-body", type=click.IntRange(1), default=8, show_default=True, metavar="MIB",
              help="Maximum size of a request.")  # fmt: skip
@click.option("--max-connections", type=click.IntRange(1), default=512, show_default=True,
              metavar="N", help="Maximum number of open connections; further ones are refused "
                                "with 503.")  # fmt: skip
@click.option("-to", "--timeout", type=click.IntRange(1), default=10, show_default=True,
              metavar="SECONDS", help="Time limit for receiving a request; large bodies get "
                                      "more time while data arrives.")  # fmt: skip
@click.option("--grace", type=click.IntRange(0), default=1, show_default=True, metavar="SECONDS",
              help="How long generations may continue on shutdown."
              )  # fmt: skip
@pooling_options
@click.option("--rerank", "--reranking", "reranking", is_flag=True,
              help="Same as --pooling rank.")  # fmt: skip
@special_option
@offering_options
@router_options
@log_file_option
@click.option("-v", "--verbose", is_flag=True, help="Log each request.")
@cluster_option
@draft_options
@shifting_options
@opening_options
@rope_options
@sampling_options
@source_flags
@ignored_options("serve")
def command(**options: Any) -> None:
    """Serve models over HTTP: OpenAI-compatible API and a web page.

    MODEL is named as for `run`. With one it is loaded at once; with several, or with none for all
    models of this machine, each is loaded when a request names it, and unloaded when it is idle or
    another one needs its room. Programs use http://HOST:PORT/v1; open http://HOST:PORT in a
    browser for the page. Several requests run at once, each with its own context. Sampling flags
    are defaults for requests that do not name them. Stop it with Ctrl-C.
    """
    from gguf_hub.cli.run.offload import offload_request
    from gguf_hub.cli.run.opening import check_drafts, n_ctx_option
    from gguf_hub.cli.run.reasoning import chat_defaults
    from gguf_hub.cli.run.rope import rope_change
    from gguf_hub.cli.run.shifting import n_keep
    from gguf_hub.cli.run.writing import read_template
    from gguf_hub.cli.serve.offering import cache_arguments
    from gguf_hub.cli.serve.routing import is_routed, model_arguments, serve_routed
    from gguf_hub.cli.serve.serving import (
        bind,
        check_server,
        import_server,
        serve_one,
    )
    from gguf_hub.run.sampler import SamplerConfig

    # 1) check the options without a model
    drop_variables_of_models(options)
    models = model_arguments(options)
    sampling = sampling_options.settings(options)
    SamplerConfig.from_options(**sampling)
    rope_change(options)
    offload_request(options)
    check_drafts(options)
    check_cluster(options)
    pooling_settings(options)
    arguments = {"n_keep": n_keep(options), "defaults": sampling,
                 "chat_format": read_template(options),
                 "chat_defaults": chat_defaults(options)}  # fmt: skip
    options["n_ctx"] = n_ctx_option(options)
    import_server()
    arguments |= {"prints_special": options["special"], **cache_arguments(options)}
    has_router = is_routed(models, options)
    access = check_server(options, is_routed=has_router)
    serve = serve_routed if has_router else serve_one
    with bind(options["host"], options["port"]) as listener:
        # 2) open the models and serve them
        serve(models, listener, options, access, arguments)
