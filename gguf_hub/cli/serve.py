"""``gguf-hub serve``: a model for other programs and for a browser, over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gguf_hub.cli.options import catalog_option

_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
_KEEP_ALIVE_S = 75  # longer than clients keep idle connections, so that they close them, not we
_NEED = "`gguf-hub serve` needs FastAPI and uvicorn: `pip install 'gguf-hub[server]'`"


@click.command(
    "serve", context_settings={"token_normalize_func": lambda name: name.replace("_", "-")}
)
@click.argument("model", required=False)
@click.option("-m", "--model", "model_option", metavar="MODEL", help="As the argument.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True,
              help="Port to listen on.")  # fmt: skip
@click.option("-c", "--ctx-size", type=click.IntRange(0), default=4096, show_default=True,
              metavar="N", help="Context of each request; 0 for what the model knows.")  # fmt: skip
@click.option("-np", "--parallel", type=click.IntRange(1, 256), default=4, show_default=True,
              metavar="N", help="Requests that are computed at once.")  # fmt: skip
@click.option("--queue", type=click.IntRange(0), default=64, show_default=True, metavar="N",
              help="Requests that may wait besides; more are refused with 429.")  # fmt: skip
@click.option("-b", "--batch-size", type=click.IntRange(1), default=512, metavar="N",
              help="Most prompt tokens of one pass over the weights.")  # fmt: skip
@click.option("-t", "--threads", type=click.IntRange(-1), default=0, metavar="N",
              help="Threads; 0 for as many physical cores as pay.")  # fmt: skip
@click.option("-a", "--alias", metavar="NAME", help="Name of the model, for clients.")
@click.option("--chat-template", metavar="NAME", help="Conversations in this format.")
@click.option("--api-key", "api_keys", multiple=True, envvar="GGUF_HUB_API_KEY", metavar="KEY",
              help="What clients must send (also GGUF_HUB_API_KEY).")  # fmt: skip
@click.option("--cors", "origins", multiple=True, metavar="ORIGIN",
              help="Let pages of this origin ask, too.")  # fmt: skip
@click.option("--max-body", type=click.IntRange(1), default=8, show_default=True, metavar="MIB",
              help="Most MiB of a request.")  # fmt: skip
@click.option("--grace", type=click.IntRange(0), default=5, show_default=True, metavar="SECONDS",
              help="How long texts may go on when the server stops.")  # fmt: skip
@click.option("--revision", metavar="REV", help="Branch, tag or commit, for a file of the hub.")
@click.option("--token", metavar="TOKEN", help="Hugging Face token (also HF_TOKEN).")
@click.option("-y", "--yes", is_flag=True, help="Download without asking.")
@click.option("-v", "--verbose", is_flag=True, help="Print a line for each request.")
@catalog_option
def command(model: str | None, model_option: str | None, **options: Any) -> None:
    """Serve a model over HTTP: OpenAI's interface and a page.

    MODEL is named as for `run`. Programs use http://HOST:PORT/v1, people open http://HOST:PORT in a
    browser. Several requests are computed at once, each with a context of its own. Ctrl-C ends it.
    """
    from gguf_hub.cli import console
    from gguf_hub.cli.models import resolve_model
    from gguf_hub.hardware import usable_threads

    if model and model_option:
        raise click.UsageError("MODEL is given twice, as an argument and with -m")
    open_service = _server().open_service
    progress = console.ConsoleProgress()
    path = resolve_model(
        model or model_option, catalog_path=options["catalog_path"], token=options["token"],
        revision=options["revision"], progress=progress, assume_yes=options["yes"],
        n_ctx=options["ctx_size"] or 4096,
    )  # fmt: skip
    with open_service(
        path, name=options["alias"], n_ctx=_n_ctx(path, options["ctx_size"]),
        n_slots=options["parallel"], n_waiting=options["queue"],
        chat_format=options["chat_template"], progress=progress, n_batch=options["batch_size"],
        n_threads=max(0, options["threads"]), n_cores=usable_threads(),
    ) as service:  # fmt: skip
        _serve(service, options)


def _server() -> Any:
    """Import the server.

    Raises:
        UsageError: Its packages are not installed.
    """
    from importlib import import_module

    from gguf_hub.errors import UsageError

    try:
        import_module("uvicorn")
        import_module("gguf_hub.server.app")
        return import_module("gguf_hub.server.opening")
    except ImportError as exc:
        raise UsageError(f"{_NEED} ({exc})") from exc


def _n_ctx(path: Path, wanted: int) -> int:
    """Return the context of a request: no more than the model was trained on, unless asked for."""
    from gguf_hub.gguf.reader import GgufFile

    with GgufFile.open(path) as file:
        architecture = file.metadata.get("general.architecture", "llama")
        trained = file.metadata.get(f"{architecture}.context_length")
    source = click.get_current_context().get_parameter_source("ctx_size")
    is_default = source is not None and source.name == "DEFAULT"
    return min(wanted, int(trained)) if is_default and trained else wanted


def _serve(service: Any, options: dict[str, Any]) -> None:
    """Listen until Ctrl-C."""
    import socket

    import uvicorn

    from gguf_hub.cli import console
    from gguf_hub.server.app import create_app

    app = create_app(
        service, api_keys=options["api_keys"], origins=options["origins"],
        max_body_bytes=options["max_body"] * 2**20, grace_s=options["grace"],
    )  # fmt: skip
    family = socket.AF_INET6 if ":" in options["host"] else socket.AF_INET
    config = uvicorn.Config(
        app, log_level="info" if options["verbose"] else "warning", access_log=options["verbose"],
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=options["grace"] + 1, server_header=False,
    )  # fmt: skip
    with _listening(family, options["host"], options["port"]) as listener:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        console.say(f"http://{shown}:{port}")
        console.note(f"{service.facts.description}: {service.facts.n_slots} slots of "
                     f"{service.facts.n_ctx} tokens; Ctrl-C ends it")  # fmt: skip
        if options["host"] not in _LOCAL_HOSTS and not options["api_keys"]:
            console.warn("other machines can connect and no key is asked: consider --api-key")
        uvicorn.Server(config).run(sockets=[listener])
    console.note("stopped")


def _listening(family: int, host: str, port: int) -> Any:
    """Return a socket that listens.

    Raises:
        GgufHubError: The address cannot be had.
    """
    import socket

    from gguf_hub.errors import GgufHubError

    # asyncio sends small pieces at once, TCP_NODELAY, only where the protocol is named; without
    # that an answer waits 40 ms for the other side's acknowledgement
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as exc:
        listener.close()
        reason = (exc.strerror or str(exc)).lower()
        raise GgufHubError(
            f"cannot listen on {host}:{port}: {reason}", hint="choose another one with --port"
        ) from exc
    return listener
