"""``gguf-hub verify``: check GGUF structure and SHA-256."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli import console
from gguf_hub.cli.files.verify_output import print_row, row_of, row_of_error
from gguf_hub.cli.options import (
    catalog_option,
    json_option,
    no_progress_option,
    offline_option,
    progress_option,
)

if TYPE_CHECKING:
    from gguf_hub.gguf.validate import Level, Report
    from gguf_hub.hub.download.expected import ExpectedFile
    from gguf_hub.hub.download.verify import Verification
    from gguf_hub.hub.resolve import Resolver


@click.command("verify")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--sha256", "given_sha256", metavar="HEX", help="Expected SHA-256 of the file.")
@click.option("--deep", "is_deep", is_flag=True, help="Check every block of the weights as well.")
@click.option("--repair", "is_repair", is_flag=True, help="Download the damaged parts again.")
@click.option(
    "--manifest",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the SHA-256 of each tensor to this new file if FILE is sound; `mirror` and "
    "clusters then use them, too.",
)
@click.option("--token", help="Hugging Face token, for --repair.")
@progress_option
@no_progress_option
@offline_option
@catalog_option
@json_option
def command(files: tuple[str, ...], given_sha256: str | None, **options: Any) -> int:
    """Check GGUF structure and SHA-256.

    FILE is a path, or a downloaded model: `Q4_K_M`, `org/repo:QUANT`; a shard or raw part stands
    for its set. Of a file that is no GGUF, as `config.json`, the SHA-256 is checked.

    The expected SHA-256 comes from --sha256, the record of verified files, the Hugging Face cache,
    the download metadata of `--local-dir`, or finally the Hub.

    With --repair, a damaged file is fixed in place: only the wrong segments are downloaded if
    gguf-hub downloaded the file before; otherwise the whole file is downloaded and the differences
    are written.

    Exit code 1 if a file is damaged, different or missing.
    """
    from gguf_hub.cli.models import make_resolver

    progress = console.progress_for(options["progress"])
    _check_hash(given_sha256, files)
    _check_manifest(options["manifest"], files)
    resolver = make_resolver(options["catalog_path"], token=options["token"], progress=progress)
    level: Level = "deep" if options["is_deep"] else "structure"
    checker = _Checker(resolver, level, is_repair=options["is_repair"])
    rows = []
    for argument in files:
        for row in checker.check(argument, given_sha256):
            rows.append(row)
            if not options["as_json"]:
                print_row(row)
    is_good = all(row["is_good"] for row in rows)
    if options["manifest"] and is_good:
        _write_manifest(Path(rows[0]["path"]), options["manifest"], resolver)
    if options["as_json"]:
        console.print_json({"is_good": is_good, "files": rows})
    return 0 if is_good else 1


def _check_hash(given_sha256: str | None, files: tuple[str, ...]) -> None:
    import re

    from gguf_hub.errors import UsageError

    if given_sha256 is None:
        return
    if not re.fullmatch(r"[0-9a-fA-F]{64}", given_sha256):
        raise UsageError(
            f"`--sha256 {given_sha256}`: expected 64 hex digits, found {len(given_sha256)}",
            hint="the file's page on the hub shows it",
        )
    if len(files) > 1:
        raise UsageError(f"--sha256 is for one file, not {len(files)}")


def _check_manifest(target: Path | None, files: tuple[str, ...]) -> None:
    from gguf_hub.cli.files.outputs import check_new
    from gguf_hub.errors import UsageError

    if target is None:
        return
    if len(files) > 1:
        raise UsageError(f"--manifest is for one file, not {len(files)}")
    check_new(target)  # before minutes of hashing


def _write_manifest(path: Path, target: Path, resolver: Resolver) -> None:
    from gguf_hub.hub.download.manifests import ManifestStore, write_manifest

    store = ManifestStore(resolver.store.folder)
    write_manifest(path, target, store, progress=resolver.progress)
    console.note(f"SHA-256 of each tensor: {target}")


@dataclass(frozen=True)
class _Checker:
    """Checks one argument after the other; an error is a row like any other."""

    resolver: Resolver
    level: Level
    is_repair: bool

    def check(self, argument: str, given_sha256: str | None) -> Iterator[dict[str, Any]]:
        """Yield a row for each file that the argument names."""
        from gguf_hub.errors import GgufHubError

        try:
            for path, report in self._reports(argument, is_alone=given_sha256 is not None):
                verification = self._verify(path, given_sha256, report)
                if self.is_repair and verification.is_repairable:
                    yield self._repair(path, verification)
                else:
                    yield row_of(verification)
        except GgufHubError as error:
            yield row_of_error(argument, error)

    def _verify(
        self, path: Path, given_sha256: str | None, report: Report | None = None
    ) -> Verification:
        from gguf_hub.hub.download.verify import verify_file

        return verify_file(
            path,
            given_sha256=given_sha256,
            store=self.resolver.store,
            ask_hub=partial(self._ask_hub, path),
            level=self.level,
            report=report,
            progress=self.resolver.progress,
        )

    def _repair(self, path: Path, verification: Verification) -> dict[str, Any]:
        """Repair a file; return its new row, with the ranges that were wrong."""
        from dataclasses import asdict

        from gguf_hub.hub.download.repair import repair, source_of

        hub, store = self.resolver.hub, self.resolver.store
        expected = verification.expected
        if expected and not expected.repo_id:
            expected = self._ask_hub(path) or expected
        source = source_of(path, verification.expected, expected, hub)
        result = repair(path, source, hub=hub, store=store, progress=self.resolver.progress)
        row = row_of(self._verify(path, None))
        return row | {
            "bad_ranges": [list(r) for r in verification.bad_ranges],
            "repaired": asdict(result),
        }

    def _reports(self, argument: str, *, is_alone: bool) -> Iterator[tuple[Path, Report | None]]:
        """Yield the files of an argument; those of a set with the report of its check, if any.

        Args:
            argument: The argument.
            is_alone: Whether a shard stands for itself only.
        """
        from gguf_hub.gguf.raw_parts import find_raw_parts, parse_raw_part
        from gguf_hub.gguf.reader import map_joined
        from gguf_hub.gguf.shard_names import parse_shard
        from gguf_hub.gguf.validate import validate_set, validate_source

        is_file = os.path.isfile(argument)  # noqa: PTH113 - False for odd names
        paths = (Path(argument),) if is_file else self.resolver.local_paths(argument)
        if parse_raw_part(paths[0].name) and not is_alone:
            parts = find_raw_parts(paths[0])
            yield parts[0], validate_source(map_joined(parts), parts[0].name)
            yield from ((part, None) for part in parts[1:])
            return
        if is_alone or not parse_shard(paths[0]):
            yield from ((path, None) for path in paths)
            return
        reports = validate_set(paths[0], self.level, progress=self.resolver.progress)
        yield from ((Path(report.path), report) for report in reports)

    def _ask_hub(self, path: Path) -> ExpectedFile | None:
        """Return what the hub has under the name of a catalog file; None for other names."""
        from gguf_hub.errors import HubError
        from gguf_hub.hub.client import is_offline
        from gguf_hub.hub.download.expected import ExpectedFile

        catalog = self.resolver.catalog
        if is_offline() or path.name not in {file.filename for file in catalog.files}:
            return None
        try:
            listing = self.resolver.hub.list_files(catalog.repo_id, catalog.revision)
        except HubError as error:
            console.note(f"no answer from the hub: {error.message}")
            return None
        file = listing.find(path.name)
        if file is None or file.sha256 is None:
            return None
        return ExpectedFile(
            file.sha256, "hub", catalog.repo_id, listing.commit, file.path, file.size_bytes
        )
