"""``gguf-hub mirror``: this machine's verified files for other machines."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from gguf_hub.cli import console
from gguf_hub.cli.options import json_option
from gguf_hub.cli.serve.mirror_output import announce

if TYPE_CHECKING:
    from gguf_hub.hub.store import Store, StoredFile

_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


@click.command("mirror")
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; 0.0.0.0: all interfaces.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default="a free one",
    help="Port to listen on.",
)
@click.option(
    "--token",
    envvar="GGUF_HUB_MIRROR_TOKEN",
    metavar="TOKEN",
    help="Token that clients must send; generated if other machines can connect (also "
    "GGUF_HUB_MIRROR_TOKEN).",
)
@click.option("-v", "--verbose", is_flag=True, help="Log each request.")
@json_option
def command(
    files: tuple[Path, ...],
    host: str,
    port: int,
    token: str | None,
    verbose: bool,
    as_json: bool,
) -> None:
    """Serve verified files to other machines as a Hub endpoint.

    Other machines download from it with gguf-hub, `hf download`, llama.cpp or curl by setting
    HF_ENDPOINT to the printed address. It offers every file that gguf-hub downloaded or verified
    and that has not changed since, under its original repository, and FILES, which are checked
    first: those of unknown origin appear in `local/models`. Read-only. Stop it with Ctrl-C.
    """
    import secrets

    from gguf_hub.hub.download.manifests import ManifestStore
    from gguf_hub.hub.mirror import Mirror, RepositoryIndex
    from gguf_hub.hub.store import Store

    if token is None and host not in _LOCAL_HOSTS:
        token = secrets.token_urlsafe(24)
    store = Store(progress=console.ConsoleProgress())
    index = RepositoryIndex(store, [entry for path in files for entry in _check(path, store)])
    manifests = ManifestStore(store.folder)
    with Mirror(
        index,
        host=host,
        port=port,
        token=token,
        manifest_of=manifests.json_of,
        on_request=console.note if verbose else None,
        on_error=console.warn,
    ) as mirror:
        try:
            snapshots = [
                snapshot for name in index.repo_ids() if (snapshot := index.snapshot(name))
            ]
            announce(mirror, snapshots, as_json)
            mirror.serve_forever()
        except KeyboardInterrupt:
            console.note("\nstopped")


def _check(path: Path, store: Store) -> list[StoredFile]:
    """Verify a file; return an entry for it unless the store has one."""
    from gguf_hub.errors import GgufError
    from gguf_hub.hub.download.verify import verify_file
    from gguf_hub.hub.store import StoredFile

    verification = verify_file(path, store=store, progress=console.ConsoleProgress())
    if not verification.verdict.is_good or verification.sha256 is None:
        raise GgufError(
            f"`{path}` is not served: {verification.verdict.value}",
            path=path,
            hint=f"`gguf-hub verify {quote(str(path))}` shows what is wrong",
        )
    return [] if store.find_verified(path) else [StoredFile.of(path, verification.sha256)]
