"""Serving a model: the socket, the service and uvicorn."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

_MISSING = "`gguf-hub serve` needs FastAPI and uvicorn: `pip install 'gguf-hub[server]'`"


def import_server() -> Any:
    """Import the server and return its module ``opening``.

    Raises:
        UsageError: Its packages are not installed.
    """
    from importlib import import_module

    from gguf_hub.errors import UsageError

    try:
        import_module("uvicorn")
        import_module("gguf_hub.api.server.app")
        return import_module("gguf_hub.api.server.opening")
    except ImportError as exc:
        raise UsageError(f"{_MISSING} ({exc})") from exc


@contextlib.contextmanager
def bind(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket bound to the address; it listens only in ``serve``.

    Raises:
        GgufHubError: The address is not available.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only if the protocol is named; without it an answer waits 40 ms for
    # the client's acknowledgement
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with _translate_errors(host, port):
            listener.bind((host, port))
        yield listener


@contextlib.contextmanager
def _translate_errors(host: str, port: int) -> Iterator[None]:
    from gguf_hub.errors import GgufHubError
    from gguf_hub.oserrors import reason_of

    try:
        yield
    except OSError as exc:
        raise GgufHubError(
            f"cannot listen on {host}:{port}: {reason_of(exc)}",
            hint="choose another address with --port or --host",
        ) from exc


def open_served(path: Path, options: dict[str, Any], **arguments: Any) -> Any:
    """Return the service of a model as a context manager; ``arguments`` of ``open_service``."""
    from gguf_hub.cli.console import ConsoleProgress
    from gguf_hub.cli.run.clustering import open_host
    from gguf_hub.cli.run.opening import drafter_of, model_settings

    n_ctx, progress = _n_ctx(path, options["ctx_size"]), ConsoleProgress()
    settings = model_settings(
        options, path, progress, n_ctx=n_ctx, n_slots=options["parallel"], n_logits=None
    )
    return import_server().open_service(
        path, settings, name=options["alias"], n_waiting=options["queue"],
        n_predict=options["predict"], drafter=drafter_of(options),
        host=open_host(options, progress), progress=progress, **arguments,
    )  # fmt: skip


def _n_ctx(path: Path, wanted: int) -> int:
    """Return the context of a request: no more than the model was trained on, unless asked for."""
    from gguf_hub.gguf.hparams import HyperParameters
    from gguf_hub.gguf.shards import open_gguf

    with open_gguf(path) as file:
        trained = file.hparams.get(HyperParameters.n_ctx_train, 0)
    source = click.get_current_context().get_parameter_source("ctx_size")
    is_default = source is not None and source.name == "DEFAULT"
    return min(wanted, trained) if is_default and trained else wanted


def check_server(options: dict[str, Any]) -> dict[str, Any]:
    """Return ``api_keys``, ``hosts`` and ``origins`` for ``create_app``.

    Raises:
        UsageError: A key or a host name is invalid, or the system allows fewer connections.
    """
    from gguf_hub.api.server.addresses import ANY, AllowedHosts, is_loopback
    from gguf_hub.api.server.api_keys import read_keys
    from gguf_hub.api.server.listening import allow_connections

    allow_connections(options["max_connections"])
    host, allowed_hosts = options["host"], options["allowed_hosts"]
    AllowedHosts(allowed_hosts)
    is_local = is_loopback(_resolve(host))
    hosts = (host, *allowed_hosts) if is_local else allowed_hosts or (ANY,)
    keys = read_keys(options["api_keys"], options["api_key_file"], os.environ)
    return {"api_keys": keys, "hosts": hosts, "origins": options["origins"]}


def _resolve(host: str) -> str:
    """Return the address of a host to listen on; ``bind`` reports unknown names."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError):
        return host


def serve(
    service: Any, listener: socket.socket, options: dict[str, Any], access: dict[str, Any]
) -> None:
    """Serve until Ctrl-C.

    Args:
        service: The model.
        listener: The bound socket.
        options: Options of the command.
        access: Result of ``check_server``.

    Raises:
        GgufHubError: Another program listens there by now.
    """
    from gguf_hub.api.server.app import create_app
    from gguf_hub.api.server.connections import Limits
    from gguf_hub.api.server.listening import N_PENDING, Server
    from gguf_hub.cli import console

    app = create_app(service, max_body_bytes=options["max_body"] * 2**20, **access)
    limits = Limits(options["max_connections"], options["timeout"])
    server = Server(app, limits=limits, grace_s=options["grace"], is_verbose=options["verbose"])
    with _translate_errors(options["host"], options["port"]):
        listener.listen(N_PENDING)
    _welcome(service, listener, is_open=not access["api_keys"])
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after its shutdown
        server.run(sockets=[listener])
    console.note("stopped")


def _welcome(service: Any, listener: socket.socket, *, is_open: bool) -> None:
    from gguf_hub.api.server.addresses import is_loopback
    from gguf_hub.cli import console

    host, port = listener.getsockname()[:2]
    url_host = f"[{host}]" if ":" in host else host
    console.say(f"http://{url_host}:{port}")
    info = service.model_info
    console.note(f"{info.description}: {info.n_slots} slots of {info.n_ctx} tokens; "
                 "Ctrl-C stops it")  # fmt: skip
    if is_open and not is_loopback(host):
        console.warn("other machines can connect without a key: consider --api-key")
