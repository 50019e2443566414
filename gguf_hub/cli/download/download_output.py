"""How ``gguf-hub download`` shows a plan and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gguf_hub.cli import console

if TYPE_CHECKING:
    from gguf_hub.hub.client import RepoListing
    from gguf_hub.hub.download.fetch import FetchedFile, Plan


def print_plan(plan: Plan, free_bytes: int, *, as_json: bool) -> None:
    """Show what would come."""
    from gguf_hub.units import format_size

    if as_json:
        files = [
            _about(planned.file, str(planned.path))
            | {"state": planned.state.value, "fetch_bytes": planned.fetch_bytes}
            for planned in plan.files
        ]
        sums = {"fetch_bytes": plan.fetch_bytes, "free_bytes": free_bytes}
        console.print_json(
            _head(plan.listing, plan.total_bytes) | {"dry_run": True, "files": files} | sums
        )
        return
    console.print_table(
        [
            [p.file.path, format_size(p.file.size_bytes), p.state.value, format_size(p.fetch_bytes)]
            for p in plan.files
        ],
        ["file", "size", "here", "to fetch"],
        align=["left", "right", "left", "right"],
    )
    console.note(
        f"\n{plan.listing.repo_id} at {plan.listing.commit}\n"
        f"{format_size(plan.fetch_bytes)} to fetch, {format_size(free_bytes)} free"
    )
    if plan.fetch_bytes > free_bytes:
        console.warn("that is more than there is room for")


def print_result(
    listing: RepoListing, fetched: Sequence[FetchedFile], *, as_json: bool, is_quiet: bool
) -> None:
    """Print the paths, or everything as JSON."""
    from gguf_hub.units import format_size

    if as_json:
        files = [
            _about(done.file, str(done.path))
            | {
                "sha256": done.sha256,
                "verified": done.is_verified,
                "status": done.status.value,
                "gguf_problem": done.gguf_problem,
            }
            for done in fetched
        ]
        total_bytes = sum(done.file.size_bytes for done in fetched)
        console.print_json(_head(listing, total_bytes) | {"dry_run": False, "files": files})
        return
    for done in fetched:
        console.say(str(done.path))
        if is_quiet and not done.is_verified:  # else the resolver has said so
            console.warn(
                f"`{done.path}`: not verified, as its SHA-256 is not known without the hub"
            )
        if not is_quiet:
            size = format_size(done.file.size_bytes)
            console.note(f"{done.status.value}: {size}{_checked_by(done)}")


def _checked_by(done: FetchedFile) -> str:
    if not done.is_verified:
        return ""
    return ", SHA-256 is the hub's" if done.file.sha256 else ", git id is the hub's"


def _head(listing: RepoListing, total_bytes: int) -> dict[str, Any]:
    return {
        "repo_id": listing.repo_id,
        "revision": listing.revision,
        "commit": listing.commit,
        "total_bytes": total_bytes,
    }


def _about(file: Any, path: str) -> dict[str, Any]:
    return {
        "filename": file.path,
        "path": path,
        "size_bytes": file.size_bytes,
        "sha256": file.sha256,
    }
