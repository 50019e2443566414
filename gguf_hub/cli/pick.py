"""``gguf-hub pick``: which file to take on this machine, and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gguf_hub.cli import console
from gguf_hub.cli.options import SIZE, catalog_option, json_option, offline_option
from gguf_hub.cli.pick_output import print_pick, report

if TYPE_CHECKING:
    from gguf_hub.catalog import Catalog
    from gguf_hub.fit import Pick

MAX_N_CTX = 2**20


@click.command("pick")
@click.option("--ram", type=SIZE, help="Memory that the model may use; a bare number is GB.")
@click.option("--vram", type=SIZE, help="The same on the GPU; with --ram, none unless given.")
@click.option(
    "--ctx",
    "n_ctx",
    type=click.IntRange(1, MAX_N_CTX),
    default=4096,
    show_default=True,
    help="Tokens of context.",
)
@click.option(
    "--policy",
    type=click.Choice(["balanced", "quality", "fast"]),
    default="balanced",
    show_default=True,
    help="What counts among the files that fit.",
)
@offline_option
@catalog_option
@json_option
def command(
    ram: int | None,
    vram: int | None,
    n_ctx: int,
    policy: str,
    catalog_path: Path | None,
    as_json: bool,
) -> int:
    """Choose the right quant for this machine.

    Memory is what this machine, or its container, has available now; --ram and --vram ask for
    another one. The need is weights, KV cache (f16) and scratch at the given context.

    balanced: files within 1 % of the best measured perplexity count as equal; the card's
    recommendation decides among them, then the smaller file. quality: the best measured. fast: the
    fewest bytes read per token within 10 % of the best.

    Exit code 1 when no file fits.
    """
    from gguf_hub import fit
    from gguf_hub.catalog import load_catalog

    catalog = load_catalog(catalog_path)
    ram_bytes, vram_bytes = _memory(ram, vram)
    found = fit.pick(
        catalog, n_ctx=n_ctx, ram_bytes=ram_bytes, vram_bytes=vram_bytes, policy=policy
    )
    commands = _commands(catalog, found, n_ctx, is_own=catalog_path is not None)
    _warn(catalog, found, n_ctx, ram_bytes)
    if as_json:
        asked = {"ram_bytes": ram_bytes, "vram_bytes": vram_bytes, "n_ctx": n_ctx, "policy": policy}
        console.print_json(report(catalog, found, asked, commands))
    else:
        print_pick(catalog, found, commands)
    if found.chosen is None:
        _hint(catalog, found, ram_bytes)
        return 1
    return 0


def _memory(ram: int | None, vram: int | None) -> tuple[int, int]:
    """Return the bytes to judge by: as given, else as this machine has them available."""
    if ram is not None:  # a what-if question: the GPU of this machine is no part of it
        return ram, vram or 0

    from gguf_hub.errors import GgufHubError
    from gguf_hub.hardware import detect

    seen = detect()
    if seen.ram_available_bytes is None:
        raise GgufHubError(
            "the memory of this machine cannot be read", hint="say how much: `--ram 24GB`"
        )
    return seen.ram_available_bytes, seen.vram_free_bytes if vram is None else vram


def _commands(catalog: Catalog, found: Pick, n_ctx: int, *, is_own: bool) -> list[str]:
    """Return the very commands that get and run the chosen file."""
    if found.chosen is None:
        return []
    quant = found.chosen.facts.quant
    # the other commands know quants of the default catalog; a full name needs no catalog
    model = f"{catalog.repo_id}:{quant}" if is_own else quant
    return [
        f"gguf-hub download {model}",
        f'gguf-hub run {model} -c {n_ctx} -p "Once upon a time"',
    ]


def _warn(catalog: Catalog, found: Pick, n_ctx: int, ram_bytes: int) -> None:
    """Tell on stderr what the table cannot."""
    from gguf_hub.fit import Verdict

    n_ctx_train = catalog.architecture.n_ctx_train
    if n_ctx > n_ctx_train:
        console.warn(
            f"the model was trained on {n_ctx_train} tokens of context: beyond them, at {n_ctx}, "
            "it writes nonsense"
        )
    chosen = found.chosen
    if chosen and chosen.verdict is Verdict.VRAM and chosen.need.total_bytes > ram_bytes:
        console.warn(
            f"{chosen.facts.quant} fits in VRAM, not in RAM: `gguf-hub run` computes on the CPU "
            "and would read it from disk again and again"
        )


def _hint(catalog: Catalog, found: Pick, ram_bytes: int) -> None:
    """Name the context with which the smallest file would fit after all."""
    from gguf_hub.fit import largest_n_ctx

    smallest = min((fit.facts for fit in found.fits), key=lambda facts: facts.weights_bytes)
    n_ctx = min(largest_n_ctx(smallest, ram_bytes), catalog.architecture.n_ctx_train)
    if n_ctx:
        console.note(f"\nhint: {smallest.quant} would fit with `--ctx {n_ctx}`")
