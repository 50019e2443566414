"""How ``gguf-hub mirror`` says where it is, what it has and how to use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gguf_hub.cli import console

if TYPE_CHECKING:
    from gguf_hub.hub.mirror import Mirror, Snapshot


def announce(mirror: Mirror, listings: list[Snapshot], as_json: bool) -> None:
    """Print where it is, what it has and how to use it."""
    if as_json:
        console.print_json(_report(mirror, listings))
    else:
        console.say(f"HF_ENDPOINT={mirror.endpoint}")
        if mirror.token:
            console.say(f"HF_TOKEN={mirror.token}")
    if not mirror.is_local:
        console.warn(
            "other machines can connect; what they send and get is not encrypted, so use it in "
            "a network that you trust"
        )
    _tell_contents(listings)
    _tell_usage(mirror, listings)


def _report(mirror: Mirror, listings: list[Snapshot]) -> dict[str, Any]:
    return {
        "endpoint": mirror.endpoint,
        "host": mirror.host,
        "port": mirror.port,
        "token": mirror.token,
        "repos": [
            {
                "repo_id": listing.repo_id,
                "commit": listing.commit,
                "files": [
                    {"filename": path, "size_bytes": entry.size_bytes, "sha256": entry.sha256}
                    for path, entry in listing.files.items()
                ],
            }
            for listing in listings
        ],
    }


def _tell_contents(listings: list[Snapshot]) -> None:
    from gguf_hub.units import format_size

    for listing in listings:
        console.note(console.style(listing.repo_id, bold=True))
        for path, entry in listing.files.items():
            console.note(f"  {path}  {format_size(entry.size_bytes)}")
    if not listings:
        console.warn(
            "there is nothing to serve yet: name files, or add some with `gguf-hub download` and "
            "`gguf-hub verify`, also while this runs"
        )


def _tell_usage(mirror: Mirror, listings: list[Snapshot]) -> None:
    repo_id = listings[0].repo_id if listings else "org/repo"
    path = next(iter(listings[0].files)) if listings else "file.gguf"
    settings = f"HF_ENDPOINT={mirror.endpoint}"
    bearer = ""
    if mirror.token:
        settings += f" HF_TOKEN={mirror.token}"
        bearer = f" -H 'Authorization: Bearer {mirror.token}'"
    url = f"{mirror.endpoint}/{repo_id}/resolve/main/{path}"
    where = "on this machine" if mirror.is_local else "on any machine of the network"
    console.note(f"\nto download {where}, with any of these:")
    for line in (
        f"{settings} gguf-hub download {repo_id} {path}",
        f"{settings} hf download {repo_id} {path} --local-dir .",
        f"curl -O{bearer} {url}",
    ):
        console.note(f"  {console.style(line, 'cyan')}")
    console.note("\nCtrl-C ends it")
