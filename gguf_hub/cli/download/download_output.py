"""Output of ``gguf-hub download``: plan and result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gguf_hub.cli import console

if TYPE_CHECKING:
    from gguf_hub.hub.client import RepoListing
    from gguf_hub.hub.download.fetch import FetchedFile, Plan


def print_plan(plan: Plan, free_bytes: int, *, as_json: bool) -> None:
    """Print what would be downloaded."""
    from gguf_hub.units import format_size

    if as_json:
        files = [
            _file_fields(file.file, str(file.path))
            | {"state": file.state.value, "fetch_bytes": file.fetch_bytes}
            for file in plan.files
        ]
        sums = {"fetch_bytes": plan.fetch_bytes, "free_bytes": free_bytes}
        console.print_json(
            _repo_fields(plan.listing, plan.total_bytes) | {"dry_run": True, "files": files} | sums
        )
        return
    console.print_table(
        [
            [
                file.file.path,
                format_size(file.file.size_bytes),
                file.state.value,
                format_size(file.fetch_bytes),
            ]
            for file in plan.files
        ],
        ["file", "size", "here", "to fetch"],
        align=["left", "right", "left", "right"],
    )
    console.note(
        f"\n{plan.listing.repo_id} at {plan.listing.commit}\n"
        f"{format_size(plan.fetch_bytes)} to fetch, {format_size(free_bytes)} free"
    )
    if plan.fetch_bytes > free_bytes:
        console.warn("not enough free space")


def print_result(
    listing: RepoListing, results: Sequence[FetchedFile], *, as_json: bool, is_quiet: bool
) -> None:
    """Print the paths, or everything as JSON."""
    from gguf_hub.units import format_size

    if as_json:
        files = [
            _file_fields(result.file, str(result.path))
            | {
                "sha256": result.sha256,
                "verified": result.is_verified,
                "status": result.status.value,
                "gguf_problem": result.gguf_problem,
            }
            for result in results
        ]
        total_bytes = sum(result.file.size_bytes for result in results)
        console.print_json(_repo_fields(listing, total_bytes) | {"dry_run": False, "files": files})
        return
    for result in results:
        console.say(str(result.path))
        if is_quiet and not result.is_verified:  # otherwise the resolver reports it
            console.warn(f"`{result.path}`: not verified, its SHA-256 is not known without the hub")
        if not is_quiet:
            size = format_size(result.file.size_bytes)
            console.note(f"{result.status.value}: {size}{_verification(result)}")
    if not is_quiet and (hints := _merge_hints(results)):
        console.note("\n".join(hints))


def _merge_hints(results: Sequence[FetchedFile]) -> list[str]:
    """Return a command for each file that came in raw parts."""
    from gguf_hub.gguf.raw_parts import merge_hint, parse_raw_part

    parts = [(part, each) for each in results if (part := parse_raw_part(each.path.name))]
    first = {part.key: each.path for part, each in reversed(parts)}
    return [merge_hint(path) for path in first.values()]


def _verification(result: FetchedFile) -> str:
    if not result.is_verified:
        return ""
    return f", {'SHA-256' if result.file.sha256 else 'git id'} matches the hub"


def _repo_fields(listing: RepoListing, total_bytes: int) -> dict[str, Any]:
    return {
        "repo_id": listing.repo_id,
        "revision": listing.revision,
        "commit": listing.commit,
        "total_bytes": total_bytes,
    }


def _file_fields(file: Any, path: str) -> dict[str, Any]:
    return {
        "filename": file.path,
        "path": path,
        "size_bytes": file.size_bytes,
        "sha256": file.sha256,
    }
