"""``gguf-hub upgrade``: an old file for today's programs, without touching a weight."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gguf_hub.cli.options import json_option

if TYPE_CHECKING:
    from gguf_hub.gguf.rewrite import Rewrite


@click.command("upgrade")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="[OUT]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--check", is_flag=True, help="Only report what would change; exit code 1 if anything would."
)
@click.option(
    "--in-place",
    is_flag=True,
    help="Replace IN after comparing the new file with it byte for byte.",
)
@click.option(
    "--layout",
    type=click.Choice(["merged", "split"]),
    default="merged",
    show_default=True,
    help="Expert layout; `split` is for programs of early 2024.",
)
@click.option(
    "--compare",
    is_flag=True,
    help="Compare every byte with IN before writing OUT (always done with --in-place).",
)
@click.option("-f", "--force", is_flag=True, help="Overwrite OUT.")
@click.option("--no-progress", is_flag=True, help="Show no progress bar.")
@json_option
def command(
    source: Path,
    target: Path | None,
    check: bool,
    in_place: bool,
    layout: str,
    compare: bool,
    force: bool,
    no_progress: bool,
    as_json: bool,
) -> int:
    """Convert an old GGUF to the current layout, losslessly.

    Merges one tensor per expert (Mixtral files of December 2023) into the layout that llama.cpp has
    required since October 2024; versions 1 and 2 become 3, big-endian becomes little-endian. No
    weight changes. IN is not changed, and OUT is written completely or not at all.
    """
    from gguf_hub.cli import console
    from gguf_hub.cli.files.outputs import check_output
    from gguf_hub.gguf.atomic import require_own
    from gguf_hub.gguf.shard_names import parse_shard
    from gguf_hub.gguf.upgrade import plan_upgrade

    if sum((target is not None, check, in_place)) != 1:
        raise click.UsageError("expected exactly one of OUT, --check and --in-place")
    plan = plan_upgrade(source, layout)  # type: ignore[arg-type]
    written = None
    if plan.changes and not check:
        if in_place:
            _require_one_file(source)
            require_own(source)
        written = source
        if target:
            meant = "" if parse_shard(source) else ", or use --in-place"
            written = check_output(source, target, force=force, or_else=meant)
        progress = console.ConsoleProgress(enabled=not no_progress)
        plan.write(written, compare=compare or in_place, progress=progress)
    _report(source, written, plan, check, as_json)
    return 1 if check and plan.changes else 0


def _require_one_file(source: Path) -> None:
    """Refuse a set of shards: one of them cannot take the place of all."""
    from gguf_hub.errors import UsageError
    from gguf_hub.gguf.shard_names import parse_shard

    if parse_shard(source):
        raise UsageError(f"`{source}` is one of several shards", hint="name the file to write")


def _report(source: Path, written: Path | None, plan: Rewrite, check: bool, as_json: bool) -> None:
    """Tell what changed, or would."""
    from gguf_hub.cli import console
    from gguf_hub.units import format_size

    if as_json:
        console.print_json(
            {
                "path": str(source),
                "written": str(written) if written else None,
                "changes": list(plan.changes),
                "n_tensors": len(plan.parts),
                "size_bytes": plan.size_bytes,
            }
        )
        return
    if not plan.changes:
        console.note(f"nothing to change: `{source}` is up to date")
    for change in plan.changes:
        console.note(f"{'would change' if check else 'changed'}: {change}")
    if written:
        console.note(f"written: {format_size(plan.size_bytes)}")
        console.say(str(written))
