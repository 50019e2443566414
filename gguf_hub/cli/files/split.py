"""``gguf-hub split``: one GGUF in several files, named as llama.cpp names them."""

from __future__ import annotations

from pathlib import Path

import click

from gguf_hub.cli.options import Size, json_option


@click.command("split")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("prefix", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--max-size",
    "--split-max-size",
    "max_size_bytes",
    type=Size(default_unit=None),
    metavar="SIZE",
    help="Maximum size of a shard, e.g. 2GB.",
)
@click.option(
    "--max-tensors",
    "--split-max-tensors",
    type=click.IntRange(min=1),
    metavar="N",
    help="Maximum number of tensors in a shard (default 128 if no limit is given).",
)
@click.option(
    "--no-tensor-first",
    "--no-tensor-first-split",
    is_flag=True,
    help="Put no tensors into the first shard.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be written.")
@click.option("-f", "--force", is_flag=True, help="Overwrite shards.")
@click.option("--no-progress", is_flag=True, help="Show no progress bar.")
@json_option
def command(
    source: Path,
    prefix: Path,
    max_size_bytes: int | None,
    max_tensors: int | None,
    no_tensor_first: bool,
    dry_run: bool,
    force: bool,
    no_progress: bool,
    as_json: bool,
) -> None:
    """Split a GGUF into shards.

    Writes OUT-00001-of-0000N.gguf and so on, as llama.cpp's gguf-split does. IN is not changed.
    """
    from gguf_hub.cli import console
    from gguf_hub.cli.files.outputs import check_outputs
    from gguf_hub.gguf.shard_names import shard_path
    from gguf_hub.gguf.shards import plan_split, write_shards

    if max_size_bytes == 0:
        raise click.UsageError("--max-size must be more than 0")
    if max_size_bytes is None and max_tensors is None:
        max_tensors = 128
    shards = plan_split(
        source,
        max_size_bytes=max_size_bytes,
        max_tensors=max_tensors,
        is_first_empty=no_tensor_first,
    )
    prefix = prefix.with_name(prefix.name.removesuffix(".gguf"))
    paths = [shard_path(prefix, no, len(shards)) for no in range(len(shards))]
    if not dry_run:
        check_outputs(paths, [source], force=force)
        progress = console.ConsoleProgress(enabled=not no_progress)
        write_shards(prefix, shards, progress=progress)
    rows = [
        {"path": str(path), "n_tensors": len(shard.parts), "size_bytes": shard.size_bytes}
        for path, shard in zip(paths, shards, strict=True)
    ]
    if as_json:
        console.print_json({"path": str(source), "written": not dry_run, "shards": rows})
    else:
        for row in rows:
            console.say(str(row["path"]))
