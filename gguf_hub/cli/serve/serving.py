"""Serving a model: the socket, the service and uvicorn."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gguf_hub.progress import Progress

_NEW_OBJECTS = 20_000
"""How many objects the garbage collector waits for."""
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


def open_served(
    path: Path, options: Mapping[str, Any], *, progress: Progress, **arguments: Any
) -> Any:
    """Return the service of a model as a context manager.

    Args:
        path: The model.
        options: Options of the command, and ``n_ctx`` of ``n_ctx_option``.
        progress: Notified about compiling, and about limits of memory or CPUs.
        arguments: More of ``open_service``.
    """
    from gguf_hub.cli.pooling import pooling_settings
    from gguf_hub.cli.run.clustering import open_host
    from gguf_hub.cli.run.opening import draft_settings, drafter_of, model_settings, n_ctx_within

    n_ctx = options["n_ctx"]
    if n_ctx is None:
        n_ctx = n_ctx_within(path, options["ctx_size"])
    settings = model_settings(
        dict(options), path, progress, n_ctx=n_ctx, n_slots=options["parallel"], n_logits=None
    )
    return import_server().open_service(
        path, settings, n_waiting=options["queue"], n_predict=options["predict"],
        drafter=drafter_of(options), draft=draft_settings(options, progress), progress=progress,
        host=open_host(options, progress), **pooling_settings(options), **arguments,
    )  # fmt: skip


def check_server(options: dict[str, Any], *, is_routed: bool = False) -> dict[str, Any]:
    """Return ``api_keys``, ``hosts`` and ``origins`` for ``create_app``.

    Args:
        options: Options of the command.
        is_routed: Each connection of a client takes another one, to the process of its model.

    Raises:
        UsageError: A key, a certificate, a host name or a prefix is invalid, or the system allows
            fewer connections.
    """
    from gguf_hub.api.server.addresses import ANY, AllowedHosts, is_loopback
    from gguf_hub.api.server.api_keys import read_keys
    from gguf_hub.api.server.listening import allow_connections, check_tls
    from gguf_hub.api.server.prefix import check_prefix
    from gguf_hub.cli.serve.offering import origins_of

    check_tls(options["ssl_cert_file"], options["ssl_key_file"])
    check_prefix(options["api_prefix"])
    allow_connections(options["max_connections"], n_files=2 if is_routed else 1)
    host, allowed_hosts = options["host"], options["allowed_hosts"]
    AllowedHosts(allowed_hosts)
    is_local = is_loopback(_resolve(host))
    hosts = (host, *allowed_hosts) if is_local else allowed_hosts or (ANY,)
    keys = read_keys(options["api_keys"], options["api_key_file"], os.environ)
    return {"api_keys": keys, "hosts": hosts, "origins": origins_of(options)}


def _resolve(host: str) -> str:
    """Return the address of a host to listen on; ``bind`` reports unknown names."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError):
        return host


def _name_elsewhere(path: Path) -> str | None:
    """Return what another program calls a file of its own, as Ollama's are named after hashes."""
    from gguf_hub.cli.models import make_resolver

    model = make_resolver().foreign.at(path)
    return model.names[0] if model else None


def serve_one(
    models: Sequence[str],
    listener: socket.socket,
    options: dict[str, Any],
    access: dict[str, Any],
    arguments: Mapping[str, Any],
) -> None:
    """Open one model and serve it until Ctrl-C.

    Args:
        models: The model argument.
        listener: The bound socket.
        options: Options of the command, and ``n_ctx`` of ``n_ctx_option``.
        access: Result of ``check_server``.
        arguments: More of ``open_service``.
    """
    from gguf_hub.cli.console import ConsoleProgress
    from gguf_hub.cli.run.opening import report_lost_pages
    from gguf_hub.cli.serve.offering import offers_of
    from gguf_hub.cli.source import fetch_argument

    progress = ConsoleProgress()
    path = fetch_argument(models[0], options, progress, options["ctx_size"])
    name = options["alias"] or _name_elsewhere(path)
    service = open_served(path, options, progress=progress, name=name, **arguments)
    with report_lost_pages(f"`{path}`"), service as opened:
        from gguf_hub.api.server.app import create_app

        app = create_app(
            opened, max_body_bytes=options["max_body"] * 2**20, offers=offers_of(options), **access
        )
        info = opened.model_info
        welcome = f"{info.description}: {info.n_slots} slots of {info.n_ctx} tokens"
        serve(app, listener, options, access, welcome)


def serve(
    app: Any,
    listener: socket.socket,
    options: Mapping[str, Any],
    access: Mapping[str, Any],
    welcome: str,
) -> None:
    """Serve until Ctrl-C.

    Args:
        app: The application.
        listener: The bound socket.
        options: Options of the command.
        access: Result of ``check_server``.
        welcome: What is served, in a line.

    Raises:
        GgufHubError: Another program listens there by now.
    """
    from gguf_hub.api.server.connections import Limits
    from gguf_hub.api.server.listening import N_PENDING, Server, check_tls
    from gguf_hub.api.server.prefix import check_prefix
    from gguf_hub.cli import console
    from gguf_hub.cli.log_file import add_records

    limits = Limits(options["max_connections"], options["timeout"])
    tls = check_tls(options["ssl_cert_file"], options["ssl_key_file"])
    server = Server(
        app, limits=limits, grace_s=options["grace"], is_verbose=options["verbose"], tls=tls
    )
    add_records(("uvicorn", "uvicorn.access"))
    with _translate_errors(options["host"], options["port"]):
        listener.listen(N_PENDING)
    console.say(_url_of(listener, "https" if tls else "http") + check_prefix(options["api_prefix"]))
    console.note(f"{welcome}; Ctrl-C stops it")
    _warn_of_guests(listener, access)
    # uvicorn raises a KeyboardInterrupt again after its shutdown
    with contextlib.suppress(KeyboardInterrupt), rare_collections():
        server.run(sockets=[listener])
    console.note("stopped")


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Let the garbage collector leave alone what there is, and come seldom.

    It went through all imported modules while texts waited, 30 to 60 ms at a time, and took a
    thirtieth of the CPU time of many clients.
    """
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _url_of(listener: socket.socket, scheme: str) -> str:
    """Return the address of a server."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _warn_of_guests(listener: socket.socket, access: Mapping[str, Any]) -> None:
    """Warn if other machines can connect without a key."""
    from gguf_hub.api.server.addresses import is_loopback
    from gguf_hub.cli import console

    if not access["api_keys"] and not is_loopback(listener.getsockname()[0]):
        console.warn("other machines can connect without a key: consider --api-key")
