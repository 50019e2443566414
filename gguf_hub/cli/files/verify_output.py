"""Output of ``gguf-hub verify`` for one file: a row of plain data, or text."""

from __future__ import annotations

from pathlib import Path
from shlex import join, quote
from typing import TYPE_CHECKING, Any

from gguf_hub.cli import console
from gguf_hub.paths import absolute

if TYPE_CHECKING:
    from gguf_hub.errors import GgufHubError
    from gguf_hub.hub.download.verify import Verification

_SOURCES = {
    "given": "as given",
    "record": "as recorded at its last verification",
    "metadata": "according to its download metadata",
    "cache": "according to its name in the Hugging Face cache",
    "hub": "according to the hub",
}
_UNKNOWN_FIELDS = (
    "size_bytes",
    "sha256",
    "expected_sha256",
    "expected_size_bytes",
    "expected_from",
    "repo_id",
    "commit",
    "filename",
)
_MAX_RANGES = 4
_COLOURS = {
    "verified": "green",
    "sound, origin unknown": "yellow",
    "not a GGUF, origin unknown": "yellow",
    "sound, changed by gguf-hub edit": "yellow",
}


def row_of(verification: Verification) -> dict[str, Any]:
    """Return the outcome for one file; the keys are stable."""
    expected = verification.expected
    return {
        "path": str(verification.path),
        "verdict": verification.verdict.value,
        "is_good": verification.verdict.is_good,
        "size_bytes": verification.size_bytes,
        "sha256": verification.sha256,
        "expected_sha256": expected and expected.sha256,
        "expected_size_bytes": expected and expected.size_bytes,
        "expected_from": expected and expected.source,
        "repo_id": expected and expected.repo_id,
        "commit": expected and expected.commit,
        "filename": expected and expected.filename,
        "is_published_so": verification.is_published_so,
        "bad_ranges": [list(pair) for pair in verification.bad_ranges],
        "repaired": None,
        "role": verification.role and verification.role.value,
        "issues": [
            {
                "code": issue.code,
                "severity": issue.severity.value,
                "place": issue.location,
                "message": issue.message,
            }
            for issue in verification.issues
        ],
        "error": None,
        "hint": None,
    }


def row_of_error(argument: str, error: GgufHubError) -> dict[str, Any]:
    """Return the outcome for an argument that could not be checked."""
    unknown_fields: dict[str, Any] = dict.fromkeys(_UNKNOWN_FIELDS)
    verdict_fields = {"path": argument, "verdict": "not checked", "is_good": False}
    error_fields = {"error": error.message, "hint": error.hint}
    empty_fields = {
        "is_published_so": False, "bad_ranges": [], "repaired": None, "role": None, "issues": [],
    }  # fmt: skip
    return verdict_fields | unknown_fields | empty_fields | error_fields


def print_row(row: dict[str, Any]) -> None:
    """Print the verdict on stdout, and a hint for a bad one on stderr."""
    if row["error"]:
        console.error(row["error"], hint=row["hint"])
        return
    verdict = row["verdict"]
    colour = _COLOURS.get(verdict, "red")
    console.say(f"{console.style(verdict, colour, bold=True)}: {row['path']}")
    for line in _details(row):
        console.say(f"  {line}")
    if not row["is_good"]:
        console.note(f"\n{console.style('hint:', 'cyan', bold=True)} {_hint(row)}")


def _details(row: dict[str, Any]) -> list[str]:
    from gguf_hub.gguf.roles import Role
    from gguf_hub.units import format_size

    origin = f", {row['repo_id']}" if row["repo_id"] else ""
    source = _SOURCES.get(row["expected_from"], "")
    lines = [
        f"{issue['severity']}: {issue['place']}: {issue['message']}" for issue in row["issues"]
    ]
    if row["role"] and (obstacle := Role(row["role"]).obstacle):
        lines.append(obstacle)
    lines += _damage(row)
    if row["sha256"] is None:
        expected = format_size(row["expected_size_bytes"])
        lines.append(
            f"{row['size_bytes']:,} bytes; expected {row['expected_size_bytes']:,} ({expected}), "
            f"{source}{origin}"
        )
        return lines
    lines.append(f"{format_size(row['size_bytes'])}, SHA-256 {row['sha256']}")
    if row["expected_sha256"] == row["sha256"]:
        lines.append(f"{source}{origin}")
    elif row["expected_sha256"]:
        lines.append(f"expected {row['expected_sha256']}, {source}{origin}")
    return lines


def _damage(row: dict[str, Any]) -> list[str]:
    from gguf_hub.units import format_size

    ranges = row["bad_ranges"]
    lines = []
    if ranges:
        n_bytes = sum(stop - start for start, stop in ranges)
        ranges_text = ", ".join(f"{start:,} to {stop:,}" for start, stop in ranges[:_MAX_RANGES])
        more = f" and {len(ranges) - _MAX_RANGES} more" if len(ranges) > _MAX_RANGES else ""
        lines.append(f"wrong somewhere in {format_size(n_bytes)}: bytes {ranges_text}{more}")
    if row["repaired"]:
        fetched, changed = (row["repaired"][key] for key in ("fetched_bytes", "changed_bytes"))
        lines.append(f"repaired: {format_size(fetched)} fetched, {format_size(changed)} written")
    return lines


def _hint(row: dict[str, Any]) -> str:
    if row["is_published_so"]:
        return "the publisher's file is like this: downloading it again does not help"
    if row["verdict"] == "not the given SHA-256":
        return "make sure that the SHA-256 belongs to this file and revision"
    if row["bad_ranges"]:
        return f"`gguf-hub verify --repair {quote(row['path'])}` downloads only the damaged parts"
    if not row["repo_id"]:
        return "download it again from its source, which gguf-hub does not know"
    return f"`{_download_again(row)}` downloads it again and verifies it"


def _download_again(row: dict[str, Any]) -> str:
    """Return the command that downloads the file to the same path, as far as that is known."""
    words = ["gguf-hub", "download", row["repo_id"], row["filename"] or ""]
    path = absolute(Path(row["path"])).as_posix()
    if row["filename"] and "/snapshots/" not in path and path.endswith(f"/{row['filename']}"):
        words += ["--local-dir", path.removesuffix(row["filename"]).rstrip("/") or "/"]
        if row["expected_from"] not in ("record", "metadata"):
            words.append("--force")  # otherwise a file of another origin is not replaced
    return join(filter(None, words))
