"""Output of ``compare``: a table, JSON, or a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf_hub.cli import console

if TYPE_CHECKING:
    from gguf_hub.cli.measure.comparing import Row

_HEADERS = ("Model", "Size", "Bits", "Perplexity", "Against base", "KL divergence", "99 %",
            "Same top", "tok/s")  # fmt: skip


def report(rows: Sequence[Row], plot: Path | None, *, as_json: bool) -> None:
    """Print the rows; JSON, or a table on stdout and the counts on stderr."""
    if as_json:
        console.print_json({"models": [_as_dict(row) for row in rows],
                            "plot": str(plot) if plot else None})  # fmt: skip
        return
    align = ["left", *["right"] * (len(_HEADERS) - 1)]
    console.print_table([_cells(row) for row in rows], list(_HEADERS), align=align)
    result = rows[0].result
    console.note(
        f"{result.perplexity.n_scored:,} tokens scored in {result.n_chunks:,} chunks of "
        f"{result.n_ctx:,}; tok/s: of reading this text"
    )
    if plot:
        console.note(f"plot written: {plot}")


def _cells(row: Row) -> tuple[str, ...]:
    from gguf_hub.units import format_size

    perplexity, divergence = row.result.perplexity.value, row.result.divergence
    against = kl = tail = top = "-"
    if divergence:
        change, error = divergence.ratio.value - 1, divergence.ratio.error
        against = f"{100 * change:+.2f} ± {100 * error:.2f} %"
        kl = f"{divergence.kl.value:.5f} ± {divergence.kl.error:.5f}"
        tail = f"{divergence.kl_quantiles[0.99]:.4f}"
        top = f"{100 * divergence.same_top.value:.2f} %"
    return (
        row.name,
        format_size(row.size_bytes),
        f"{row.bits_per_weight:.2f}",
        f"{perplexity.value:.4f} ± {perplexity.error:.4f}",
        against,
        kl,
        tail,
        top,
        f"{row.tok_per_s:.0f}",
    )


def _as_dict(row: Row) -> dict[str, Any]:
    from gguf_hub.cli.measure.perplexity_output import as_dict

    measured = as_dict(row.model, row.result, 0)
    del measured["seconds"]
    return {
        **measured,
        "name": row.name,
        "size_bytes": row.size_bytes,
        "bits_per_weight": round(row.bits_per_weight, 4),
        "tok_per_s": round(row.tok_per_s, 2),
    }


def draw(rows: Sequence[Row], path: Path, *, is_dark: bool) -> None:
    """Plot KL divergence against size, of all models but the base.

    Raises:
        GgufHubError: No model has a divergence, or the file cannot be written.
    """
    from gguf_hub.cli.pick.pick_plot import DARK, LIGHT, save

    colours = DARK if is_dark else LIGHT
    save(lambda: _figure([row for row in rows if row.result.divergence], colours), path)


def _figure(rows: Sequence[Row], colours: Any) -> Any:
    """Return the figure, without pyplot's windows and global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, facecolor=colours.paper, layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor(colours.paper)
    sizes = [row.size_bytes / 1e9 for row in rows]
    losses = [max(row.result.divergence.kl.value, 1e-9) for row in rows if row.result.divergence]
    axes.scatter(sizes, losses, color=colours.fits, zorder=3)
    for row, x, y in zip(rows, sizes, losses, strict=True):
        axes.annotate(row.name, (x, y), xytext=(6, 6), textcoords="offset points", fontsize=9,
                      color=colours.ink)  # fmt: skip
    axes.set_yscale("log")
    axes.margins(x=0.2)
    axes.set_xlabel("size, GB", color=colours.ink)
    axes.set_ylabel("KL divergence from the base (lower is better)", color=colours.ink)
    axes.set_title("quality against size", color=colours.ink, loc="left")
    axes.grid(color=colours.faint, linewidth=0.6)
    axes.tick_params(colors=colours.ink, which="both")
    for spine in axes.spines.values():
        spine.set_color(colours.faint)
    return figure
