"""Serving several models: the router, and what it starts its processes with."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli import console
from gguf_hub.cli.options import together

if TYPE_CHECKING:
    from gguf_hub.api.server.router.room import OpeningFacts
    from gguf_hub.api.server.router.service import Router
    from gguf_hub.hub.fit import Machine
    from gguf_hub.hub.resolve import Resolver
    from gguf_hub.progress import Progress
    from gguf_hub.subprocesses import Process

_SPARE_CONNECTIONS = 16
_FOLDERS = ("GGUF_HUB_HOME", "GGUF_HUB_KERNEL_CACHE")
_SETTINGS = ("GGUF_HUB_ISA", "GGUF_HUB_SOFTWARE_GPU", "NUMBA_*", "XDG_*")
"""Variables that say how models run; none of them is a secret."""
_OWN = frozenset(
    (
        "api_keys",
        "api_key_file",
        "ssl_key_file",
        "ssl_cert_file",
        "token",
        "host",
        "port",
        "allowed_hosts",
        "origins",
        "cors_origins",
        "api_prefix",
        "models",
        "models_dir",
    )
)
"""Options of the router alone."""


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """A time as ``300``, ``5m`` or ``1h30m``; negative for no end."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return seconds; infinite for no end."""
        from gguf_hub.api.server.durations import duration_s
        from gguf_hub.errors import UsageError

        try:
            return duration_s(value)
        except UsageError as error:
            self.fail(error.message, param, ctx)


router_options = together(
    click.option("--models-dir", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
                 help="Serve the models in this folder and in folders of it, loaded on demand."),
    click.option("--models-max", "--max-models", "models_max", type=click.IntRange(0), default=4,
                 show_default=True, metavar="N",
                 help="With several models: most of them loaded at once; 0: no limit."),
    click.option("--models-autoload/--no-models-autoload", default=True,
                 help="With several models: load them when requests name them (default)."),
    click.option("--keep-alive", "--sleep-idle-seconds", "--sleep-idle", "keep_alive",
                 type=Duration(), default="5m", show_default=True, metavar="TIME",
                 help="Unload a model so long after its last request (5m, 300; -1: never). With "
                      "one MODEL only if this is given."),
    click.option("--load-timeout", type=click.IntRange(1), default=300, show_default=True,
                 metavar="SECONDS",
                 help="With several models: how long a request waits for its model."),
)  # fmt: skip
"""Add the options that ``make_router`` reads."""


def model_arguments(options: dict[str, Any]) -> list[str]:
    """Return the model arguments of the command line.

    Raises:
        UsageError: One is given twice.
    """
    from gguf_hub.cli.source import model_argument

    models = [*options["models"], *models_in(options["models_dir"])]
    first = model_argument({**options, "model": models[0] if models else None})
    return models or ([first] if first else [])


def models_in(folder: Path | None) -> list[str]:
    """Return the model files of a folder and of the folders in it, sets of shards once.

    Raises:
        UsageError: There are none.
    """
    from gguf_hub.errors import UsageError
    from gguf_hub.gguf.shard_names import parse_shard
    from gguf_hub.hub.download.names import is_model

    if folder is None:
        return []
    files = sorted([*folder.glob("*.gguf"), *folder.glob("*/*.gguf")])
    models = [path for path in files if is_model(path.relative_to(folder).as_posix())]
    shards = {path: parse_shard(path) for path in models}
    found = [str(path) for path, shard in shards.items() if shard is None or shard[1] == 0]
    if not found:
        raise UsageError(f"--models-dir {folder}: expected GGUF models in this folder, found none",
                         hint="without it, all models of this machine are served")  # fmt: skip
    return found


def is_routed(models: Sequence[str], options: Mapping[str, Any]) -> bool:
    """Return whether models are loaded on demand: several, a folder, one that is to be unloaded."""
    source = click.get_current_context().get_parameter_source("keep_alive")
    is_unloaded = source is not None and source.name != "DEFAULT"
    return len(models) != 1 or options["models_dir"] is not None or is_unloaded


def serve_routed(
    models: Sequence[str],
    listener: socket.socket,
    options: dict[str, Any],
    access: dict[str, Any],
    arguments: Mapping[str, Any],
) -> None:
    """Serve several models until Ctrl-C; the arguments are those of ``serve_one``."""
    from gguf_hub.api.server.router.app import create_router_app
    from gguf_hub.cli.run.adapters import make_absolute
    from gguf_hub.cli.run.opening import draft_argument, draft_settings
    from gguf_hub.cli.serve.offering import offers_of
    from gguf_hub.cli.serve.serving import serve
    from gguf_hub.cli.source import fetch_argument
    from gguf_hub.errors import UsageError

    if options["cluster"]:
        raise UsageError("`--cluster` computes one model, which stays loaded",
                         hint="name one MODEL, and leave `--keep-alive` out")  # fmt: skip
    if options["alias"] and len(models) != 1:
        raise UsageError("`--alias` names one model, and there are several",
                         hint="each has the name that `/v1/models` lists")  # fmt: skip
    if draft_argument(options):
        if len(models) != 1:
            raise UsageError("`--model-draft` drafts for one model, and there are several",
                             hint="`--lookup N` drafts for any model")  # fmt: skip
        path = draft_settings(options, console.ConsoleProgress()).path
        # a process that works in another folder opens it
        options["model_draft"] = str(path.absolute()) if path else None
        options["hf_repo_draft"] = None
    if options["lora"] or options["lora_scaled"]:
        if len(models) != 1:
            raise UsageError("`--lora` applies to one model, and there are several",
                             hint="name one MODEL")  # fmt: skip
        make_absolute(options)
    progress, n_ctx = console.ConsoleProgress(), options["ctx_size"]
    named = [(m, fetch_argument(m, options, progress, n_ctx).absolute()) for m in models]
    router = make_router(options, named or None, arguments)
    app = create_router_app(
        router, max_body_bytes=options["max_body"] * 2**20, offers=offers_of(options), **access
    )
    n = len(router.library.models())
    welcome = f"{n} {'model' if n == 1 else 'models'}, loaded when requests name them"
    serve(app, listener, options, access, welcome)


def make_router(
    options: Mapping[str, Any],
    named: list[tuple[str, Path]] | None,
    arguments: Mapping[str, Any],
) -> Router:
    """Return a router; its processes start when they are needed.

    Args:
        options: Options of the command, and ``n_ctx`` of ``n_ctx_option``.
        named: The models that were named, and their files; None for all of this machine.
        arguments: More of ``open_service``.
    """
    from gguf_hub.api.server.router.fleet import Fleet, FleetSettings
    from gguf_hub.api.server.router.library import Library
    from gguf_hub.api.server.router.pulls import Pulls
    from gguf_hub.api.server.router.room import Room
    from gguf_hub.api.server.router.service import Router, ask_models
    from gguf_hub.progress import SILENT
    from gguf_hub.resources.memory import available_ram_bytes

    opening = _opening(options)
    make_resolver = partial(_resolver, options)
    resolver = make_resolver(SILENT)
    library = Library(resolver, named, options["alias"])
    settings = FleetSettings(options["models_max"], options["keep_alive"], options["load_timeout"])
    room = Room(opening, _machine, available_ram_bytes)
    start = partial(start_child, options, arguments)
    fleet = Fleet(start, ask_models, room, settings, console.note)
    pulls = Pulls(make_resolver, fleet.events, partial(library.models, is_fresh=True))
    return Router(library, fleet, pulls, resolver, opening, autoload=options["models_autoload"])


def start_child(
    options: Mapping[str, Any], arguments: Mapping[str, Any], name: str, path: Path, key: str
) -> Process:
    """Start the process of a model and tell it what to open; see ``StartProcess``."""
    from gguf_hub.run.gpu.adapters import VARIABLES
    from gguf_hub.subprocesses import start_python

    wanted = {
        "path": str(path), "name": name, "key": key, "arguments": dict(arguments),
        "options": {key: value for key, value in options.items() if key not in _OWN},
        "max_body_bytes": options["max_body"] * 2**20,
        "n_connections": options["max_connections"] + _SPARE_CONNECTIONS,
    }  # fmt: skip
    child = start_python(
        "gguf_hub.cli.serve.child", stderr=2, variables=_folders(),
        passed=(*_SETTINGS, *VARIABLES),
    )  # fmt: skip
    assert child.stdin is not None
    with contextlib.suppress(OSError):  # it has ended, as its exit code will say
        child.stdin.write(json.dumps(wanted, default=str).encode() + b"\n")
        child.stdin.flush()
    return child


def _folders() -> dict[str, str]:
    """Return variables that name folders, which do not depend on the working folder."""
    from gguf_hub.paths import absolute, expand_user

    return {name: str(absolute(expand_user(folder)))
            for name in _FOLDERS if (folder := os.environ.get(name))}  # fmt: skip


def _opening(options: Mapping[str, Any]) -> OpeningFacts:
    from gguf_hub.api.server.router.room import OpeningFacts
    from gguf_hub.gguf.memory.cache import CACHE_TYPES

    types = options["cache_type_k"], options["cache_type_v"]
    return OpeningFacts(
        n_ctx=options["n_ctx"],
        default_n_ctx=options["ctx_size"],
        n_slots=options["parallel"],
        kv_type=min(types, key=[name.lower() for name in CACHE_TYPES].index),  # the larger one
        is_mapped=options["mmap"] and not options["mlock"],
        uses_gpu=options["gpu_layers"] != 0,
    )


def _machine() -> Machine:
    from gguf_hub.cli.pick.machines import MachineOverrides, detect_machine

    return detect_machine(MachineOverrides(may_probe=False)).machine


def _resolver(options: Mapping[str, Any], progress: Progress) -> Resolver:
    from gguf_hub.cli.models import make_resolver

    return make_resolver(
        options["catalog_path"], token=options["token"], progress=progress, assume_yes=True
    )
