"""``gguf-hub upgrade``: convert an old GGUF to the current layout, losslessly."""

from __future__ import annotations

from pathlib import Path

import click

from gguf_hub.cli.options import layout_option, output_options


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
@layout_option
@click.option(
    "--compare",
    is_flag=True,
    help="Compare every byte with IN before writing OUT (always done with --in-place).",
)
@click.option(
    "--manifest",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the SHA-256 of each tensor of OUT to this new file.",
)
@output_options
def command(
    source: Path,
    target: Path | None,
    check: bool,
    in_place: bool,
    layout: str,
    compare: bool,
    manifest: Path | None,
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
    from gguf_hub.cli.files.outputs import check_new, check_output, report
    from gguf_hub.gguf.atomic import require_own
    from gguf_hub.gguf.shard_names import parse_shard
    from gguf_hub.gguf.upgrade import plan_upgrade
    from gguf_hub.units import format_size

    if sum((target is not None, check, in_place)) != 1:
        raise click.UsageError("expected exactly one of OUT, --check and --in-place")
    if manifest and check:
        raise click.UsageError("--check writes nothing: leave --manifest out")
    check_new(manifest, target)
    plan = plan_upgrade(source, layout)  # type: ignore[arg-type]
    output = None
    if plan.changes and not check:
        if in_place:
            _require_one_file(source)
            require_own(source)
        output = source
        if target:
            alternative = "" if parse_shard(source) else ", or use --in-place"
            output = check_output(source, target, force=force, or_else=alternative)
        progress = console.ConsoleProgress(enabled=not no_progress)
        plan.write(output, compare=compare or in_place, progress=progress)
    if manifest:
        from gguf_hub.hub.download.manifests import ManifestStore, write_manifest
        from gguf_hub.paths import data_dir

        write_manifest(output or source, manifest, ManifestStore(data_dir()))
    data = {
        "path": str(source),
        "written": str(output) if output else None,
        "changes": list(plan.changes),
        "n_tensors": len(plan.parts),
        "size_bytes": plan.size_bytes,
    }
    notes = [f"{'would change' if check else 'changed'}: {change}" for change in plan.changes]
    if not notes:
        notes = [f"nothing to change: `{source}` is up to date"]
    if output:
        notes.append(f"written: {format_size(plan.size_bytes)}")
    report(data, notes, output, as_json=as_json)
    return 1 if check and plan.changes else 0


def _require_one_file(source: Path) -> None:
    """Refuse a set of shards: the new file cannot replace one of them."""
    from gguf_hub.errors import UsageError
    from gguf_hub.gguf.shard_names import parse_shard

    if parse_shard(source):
        raise UsageError(f"`{source}` is one of several shards", hint="name the file to write")
