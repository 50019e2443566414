"""``gguf-hub edit``: change metadata and tensor names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gguf_hub.cli.options import json_option

if TYPE_CHECKING:
    from gguf_hub.cli.console import ConsoleProgress
    from gguf_hub.gguf.edit import EditPlan


@click.command("edit")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "values",
    multiple=True,
    metavar="KEY[:TYPE]=VALUE",
    help="Set a key; write arrays as JSON.",
)
@click.option(
    "--set-file",
    "files",
    multiple=True,
    metavar="KEY=FILE",
    help="Set a text key from a file, e.g. a chat template.",
)
@click.option("--unset", "removed", multiple=True, metavar="KEY", help="Remove a key.")
@click.option(
    "--rename-tensor", "renamed", multiple=True, metavar="OLD=NEW", help="Rename a tensor."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Write a new file instead of changing FILE.",
)
@click.option("--dry-run", is_flag=True, help="Only report what would change.")
@click.option(
    "-f", "--force", is_flag=True, help="Change the file even if it becomes invalid; overwrite OUT."
)
@click.option("--no-progress", is_flag=True, help="Show no progress bar.")
@json_option
def command(
    path: Path,
    values: tuple[str, ...],
    files: tuple[str, ...],
    removed: tuple[str, ...],
    renamed: tuple[str, ...],
    output: Path | None,
    dry_run: bool,
    force: bool,
    no_progress: bool,
    as_json: bool,
) -> None:
    """Edit metadata and tensor names.

    If no length changes, only the affected bytes are rewritten, protected by a journal; otherwise a
    new file is written and replaces FILE when it is complete. Values get the types that programs
    expect. An interrupted edit is completed first. The file's SHA-256 changes.
    """
    from gguf_hub.cli import console
    from gguf_hub.cli.files.outputs import check_output, report
    from gguf_hub.gguf.edit import Edits, plan_edit
    from gguf_hub.gguf.journal import is_unfinished, recover
    from gguf_hub.gguf.reader import map_file

    map_file(path)  # reports a missing file
    # another program's file under the journal's name only blocks edits in place
    needs_name = output is None or is_unfinished(path)
    was_unfinished = not dry_run and needs_name and recover(path)
    if was_unfinished:
        console.note(f"finished an edit of `{path}` that had been interrupted")
    if not (values or files or removed or renamed):
        if was_unfinished:
            return
        raise click.UsageError("nothing to do: expected --set, --unset or --rename-tensor")
    text_files = _pairs(files, "--set-file")
    texts = {key: _read_text(name) for key, name in text_files.items()}
    edits = Edits({**_pairs(values, "--set"), **texts}, removed, _pairs(renamed, "--rename-tensor"))
    plan = plan_edit(path, edits)
    if not force:
        _refuse_new_errors(path, plan)
    in_place = output is None and plan.patches is not None
    if plan.changes and not dry_run:
        progress = console.ConsoleProgress(enabled=not no_progress)
        if output is not None:
            inputs = [path, *map(Path, text_files.values())]
            output = check_output(path, output, inputs, force=force)
            plan.rewrite.write(output, progress=progress)
        else:
            _write_in_place(path, plan, progress)
    data = {"path": str(output or path), "in_place": in_place, "changes": list(plan.changes)}
    is_written = bool(plan.changes) and not dry_run
    prefix = "would change: " if dry_run and plan.changes else ""
    notes = [prefix + change for change in plan.changes or ("nothing to change",)]
    report(
        {**data, "written": is_written}, notes, (output or path) if is_written else None,
        as_json=as_json,
    )  # fmt: skip


def _pairs(arguments: tuple[str, ...], option: str) -> dict[str, str]:
    pairs = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not (key and equals):
            raise click.UsageError(f"{option} {argument}: expected two sides of a `=`")
        pairs[key] = value
    return pairs


def _read_text(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise click.UsageError(f"cannot read `{name}`: {exc}") from exc


def _refuse_new_errors(path: Path, plan: EditPlan) -> None:
    from gguf_hub.errors import GgufError

    if plan.new_errors:
        more = f" (and {len(plan.new_errors) - 1} more)" if len(plan.new_errors) > 1 else ""
        raise GgufError(
            f"`{path}` would be damaged: {plan.new_errors[0]}{more}",
            path=path,
            issues=plan.new_errors,
            hint="--force writes it anyway",
        )


def _write_in_place(path: Path, plan: EditPlan, progress: ConsoleProgress) -> None:
    """Patch the file in place, or replace it with a new one."""
    from gguf_hub.gguf.atomic import require_own
    from gguf_hub.gguf.journal import apply_patches
    from gguf_hub.hub.download.edited import record_edit
    from gguf_hub.hub.store import Store

    require_own(path)
    if plan.patches is not None:
        apply_patches(path, plan.patches)
    else:
        plan.rewrite.write(path, compare=True, progress=progress)
    record_edit(path, Store(progress=progress))
