"""Output of ``gguf-hub mirror``: address, files and usage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gguf_hub.cli import console

if TYPE_CHECKING:
    from gguf_hub.hub.mirror import Mirror, Snapshot


def announce(mirror: Mirror, snapshots: list[Snapshot], as_json: bool) -> None:
    """Print address, files and usage."""
    if as_json:
        console.print_json(_report(mirror, snapshots))
    else:
        console.say(f"HF_ENDPOINT={mirror.endpoint}")
        if mirror.token:
            console.say(f"HF_TOKEN={mirror.token}")
    if not mirror.is_local:
        console.warn(
            "other machines can connect, and the traffic is not encrypted: use it only on a "
            "network that you trust"
        )
    _show_contents(snapshots)
    _show_usage(mirror, snapshots)


def _report(mirror: Mirror, snapshots: list[Snapshot]) -> dict[str, Any]:
    return {
        "endpoint": mirror.endpoint,
        "host": mirror.host,
        "port": mirror.port,
        "token": mirror.token,
        "repos": [
            {
                "repo_id": snapshot.repo_id,
                "commit": snapshot.commit,
                "files": [
                    {"filename": path, "size_bytes": file.size_bytes, "sha256": file.sha256}
                    for path, file in snapshot.files.items()
                ],
            }
            for snapshot in snapshots
        ],
    }


def _show_contents(snapshots: list[Snapshot]) -> None:
    from gguf_hub.units import format_size

    for snapshot in snapshots:
        console.note(console.style(snapshot.repo_id, bold=True))
        for path, file in snapshot.files.items():
            console.note(f"  {path}  {format_size(file.size_bytes)}")
    if not snapshots:
        console.warn(
            "nothing to serve yet: name files, or add some with `gguf-hub download` and `gguf-hub "
            "verify`, even while this runs"
        )


def _show_usage(mirror: Mirror, snapshots: list[Snapshot]) -> None:
    repo_id = snapshots[0].repo_id if snapshots else "org/repo"
    path = next(iter(snapshots[0].files)) if snapshots else "file.gguf"
    settings = f"HF_ENDPOINT={mirror.endpoint}"
    bearer = ""
    if mirror.token:
        settings += f" HF_TOKEN={mirror.token}"
        bearer = f" -H 'Authorization: Bearer {mirror.token}'"
    url = f"{mirror.endpoint}/{repo_id}/resolve/main/{path}"
    where = "on this machine" if mirror.is_local else "on any machine in the network"
    console.note(f"\nto download {where}, with any of these:")
    for line in (
        f"{settings} gguf-hub download {repo_id} {path}",
        f"{settings} hf download {repo_id} {path} --local-dir .",
        f"curl -O{bearer} {url}",
    ):
        console.note(f"  {console.style(line, 'cyan')}")
    console.note("\nCtrl-C stops it")
