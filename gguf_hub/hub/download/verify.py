"""Is a file on disk what it should be? First a GGUF's structure, then any file's SHA-256.

The expected SHA-256 comes from the first that knows it: the user, the record of verified files,
the metadata that huggingface_hub leaves beside files, and last the hub.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from gguf_hub.gguf.raw_parts import parse_raw_part
from gguf_hub.hub.download.cachedir import SHA256, blob_of, find_file, repo_id_of
from gguf_hub.hub.download.digest import sha256_file
from gguf_hub.hub.download.expected import ExpectedFile
from gguf_hub.hub.download.names import is_gguf
from gguf_hub.hub.download.notes import Note
from gguf_hub.hub.download.repair import find_damage
from gguf_hub.hub.download.segment_hashes import SegmentHashStore
from gguf_hub.hub.store import Store, StoredFile
from gguf_hub.progress import SILENT, Progress

if TYPE_CHECKING:
    from gguf_hub.gguf.issues import Issue
    from gguf_hub.gguf.roles import Role
    from gguf_hub.gguf.validate import Level, Report


class Verdict(str, Enum):
    """What a check comes to."""

    VERIFIED = "verified"
    DAMAGED = "damaged"
    DIFFERENT = "not what the hub has"
    NOT_GIVEN = "not the given SHA-256"
    UNKNOWN = "sound, origin unknown"
    OTHER = "not a GGUF, origin unknown"
    EDITED = "sound, changed by gguf-hub edit"

    @property
    def is_good(self) -> bool:
        """Nothing was found wrong."""
        return self in (Verdict.VERIFIED, Verdict.UNKNOWN, Verdict.OTHER, Verdict.EDITED)


@dataclass(frozen=True)
class Verification:
    """The outcome for one file.

    Attributes:
        path: The file.
        size_bytes: Its size.
        verdict: What the check comes to.
        sha256: Of its bytes; None when a wrong size made hashing pointless.
        expected: What it should be, and who says so.
        issues: What is wrong with its structure.
        role: What the GGUF is for; None for another file.
        bad_ranges: Start and stop of the ranges with wrong bytes, as far as they are known.
    """

    path: Path
    size_bytes: int
    verdict: Verdict
    sha256: str | None
    expected: ExpectedFile | None
    issues: tuple[Issue, ...]
    role: Role | None
    bad_ranges: tuple[tuple[int, int], ...] = ()

    @property
    def is_published_so(self) -> bool:
        """The file is damaged, yet byte for byte what its publisher has."""
        return (
            self.verdict is Verdict.DAMAGED
            and self.expected is not None
            and self.sha256 == self.expected.sha256
        )

    @property
    def is_repairable(self) -> bool:
        """The file is not what it should be, and what that is has a name."""
        is_wrong = self.expected is not None and self.sha256 != self.expected.sha256
        return is_wrong and self.verdict in (Verdict.DAMAGED, Verdict.DIFFERENT)


AskHub = Callable[[], ExpectedFile | None]


def verify_file(
    path: Path,
    *,
    given_sha256: str | None = None,
    store: Store,
    ask_hub: AskHub = lambda: None,
    level: Level = "structure",
    report: Report | None = None,
    progress: Progress = SILENT,
) -> Verification:
    """Check one file, and record it when it is what it should be.

    Args:
        path: An existing file. One that is no GGUF by its name needs only the right SHA-256, where
            that is known.
        given_sha256: What the user says that it must be, in hex.
        store: The record; read, and updated when the file is verified.
        ask_hub: Asked last, and only when nobody nearer knows.
        level: How closely to look at the structure; ``"deep"`` reads every block.
        report: On the structure, where it was looked at already, as that of a shard is.
        progress: Where to report bytes.

    Raises:
        GgufError: The file cannot be read.
        HubError: From ``ask_hub``.
    """
    expected = expectation(path, given_sha256, store) or ask_hub()
    report = report or _check_structure(path, level, expected, progress)
    size_bytes = path.stat().st_size
    sha256 = None
    if expected is None or expected.size_bytes in (None, size_bytes):
        sha256 = sha256_file(path, progress=progress)
    verdict = _verdict(report is None or report.is_sound, sha256, expected)
    if verdict is Verdict.UNKNOWN and report is None and not parse_raw_part(path.name):
        verdict = Verdict.OTHER
    if verdict is Verdict.DIFFERENT and (known := store.find(path)) and known.edited_at:
        verdict = Verdict.EDITED
    if verdict is Verdict.VERIFIED and expected and sha256:
        _record(path, sha256, expected, store)
    elif sha256 and (known := store.find(path)) and known.sha256 != sha256:
        # bytes can change without a trace in size and time: the record must not vouch for them
        store.distrust(path)
    bad_ranges: tuple[tuple[int, int], ...] = ()
    if verdict is not Verdict.EDITED:  # of which nothing is bad
        bad_ranges = _bad_ranges(path, sha256, expected, store, progress)
    issues, role = (report.issues, _role(report)) if report else ((), None)
    return Verification(path, size_bytes, verdict, sha256, expected, issues, role, bad_ranges)


def _role(report: Report) -> Role | None:
    from gguf_hub.gguf.roles import role_of_header

    header = report.header
    return role_of_header(header.fields, header.entries) if header.is_whole else None


def _check_structure(
    path: Path, level: Level, expected: ExpectedFile | None, progress: Progress
) -> Report | None:
    """Check a GGUF; None for a raw part, and for another file, by its name and its bytes."""
    from gguf_hub.gguf.validate import validate_file

    name = (expected and expected.filename) or path.name
    is_other = not is_gguf(name) and not _begins_as_gguf(path)
    if parse_raw_part(name) or is_other:
        return None
    return validate_file(path, level, progress=progress)


def _begins_as_gguf(path: Path) -> bool:
    from gguf_hub.gguf.format import MAGIC
    from gguf_hub.gguf.mapping import read_errors

    with read_errors(path), path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _bad_ranges(
    path: Path, sha256: str | None, expected: ExpectedFile | None, store: Store, progress: Progress
) -> tuple[tuple[int, int], ...]:
    """Return where the bytes are wrong, if the hashes of segments were kept."""
    if expected is None or sha256 == expected.sha256:
        return ()
    hashes = SegmentHashStore(store.folder).find(expected.sha256)
    return tuple(find_damage(path, hashes, progress=progress).ranges) if hashes else ()


def _verdict(is_sound: bool, sha256: str | None, expected: ExpectedFile | None) -> Verdict:
    if not is_sound:
        return Verdict.DAMAGED
    if expected is None:
        return Verdict.UNKNOWN
    if sha256 == expected.sha256:
        return Verdict.VERIFIED
    return Verdict.NOT_GIVEN if expected.source == "given" else Verdict.DIFFERENT


def _record(path: Path, sha256: str, expected: ExpectedFile, store: Store) -> None:
    known = store.find(path)
    if known and known.sha256 == sha256:
        # what is known of its origin stays, when this time nobody said more
        expected = ExpectedFile(
            sha256,
            expected.source,
            expected.repo_id or known.repo_id,
            expected.commit or known.commit,
            expected.filename or known.filename,
        )
    entry = StoredFile.of(
        path,
        sha256,
        repo_id=expected.repo_id,
        commit=expected.commit,
        filename=expected.filename,
    )
    store.add(entry)


def expectation(path: Path, given_sha256: str | None, store: Store) -> ExpectedFile | None:
    """Return what a file should be as far as this machine knows, or None.

    Args:
        path: The file.
        given_sha256: What the user says.
        store: The record of verified files.
    """
    if given_sha256 is not None:
        return ExpectedFile(given_sha256.lower(), "given")
    known = store.find(path)
    if known is not None:
        return ExpectedFile(
            known.sha256, "record", known.repo_id, known.commit, known.filename, known.size_bytes
        )
    return _from_cache(path) or _from_metadata(path)


def _from_cache(path: Path) -> ExpectedFile | None:
    """Read the names of the Hugging Face cache: ``models--org--name/blobs/<sha256>``."""
    blob = blob_of(path)
    repo_id = repo_id_of(blob.parent.parent)
    if blob.parent.name != "blobs" or not SHA256.fullmatch(blob.name):
        return None
    cached = find_file(path)
    if cached is None:
        return ExpectedFile(blob.name, "cache", repo_id)
    return ExpectedFile(blob.name, "cache", repo_id, cached.commit, cached.filename)


def _from_metadata(path: Path) -> ExpectedFile | None:
    """Read what huggingface_hub noted of a file in ``--local-dir``."""
    note = Note.find(path)
    if note is None or note.sha256 is None:
        return None
    return ExpectedFile(note.sha256, "metadata", commit=note.commit, filename=note.filename)
