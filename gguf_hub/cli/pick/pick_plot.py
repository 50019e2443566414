"""``gguf-hub pick --plot``: plot quality against memory (extra ``plot``: matplotlib)."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf_hub.oserrors import reason_of

if TYPE_CHECKING:
    from gguf_hub.hub.fit import Fit, Pick

FORMATS = (".png", ".svg")
SIGNATURE = b"gguf-hub pick --plot"
"""Metadata of our plots; only a file with it is replaced."""
_DESCRIPTION = "a plot of `gguf-hub pick --plot`"
LINEAR_BELOW = 0.5  # per cent: below, the axis of losses is linear, as the best file has none


@dataclass(frozen=True)
class Colours:
    """Colours of the plot."""

    paper: str
    ink: str
    faint: str
    fits: str
    not_fits: str
    limit: str


LIGHT = Colours("#ffffff", "#1f2328", "#d0d7de", "#1a7f37", "#8c959f", "#bc4c00")
DARK = Colours("#0d1117", "#e6edf3", "#30363d", "#3fb950", "#8b949e", "#f0883e")


def check_plot(path: Path) -> None:
    """Check before measuring that the plot can be written.

    Raises:
        UsageError: The format is not supported.
        GgufHubError: No matplotlib, no such folder, or another file is in the way.
    """
    from gguf_hub.errors import GgufHubError, UsageError
    from gguf_hub.files import require_ours

    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            f"`--plot {path}`: expected a name that ends with .png or .svg",
            hint=f"for example `--plot {path.stem or 'pick'}.png`",
        )
    if not path.absolute().parent.is_dir():
        raise GgufHubError(f"`--plot {path}`: no folder `{path.parent}`")
    require_ours(path, _DESCRIPTION, _is_ours)
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise GgufHubError(
            "`--plot` needs matplotlib, which is not installed",
            hint="`pip install 'gguf-hub[plot]'`",
        ) from error


def draw(pick: Pick, path: Path, *, title: str = "", is_dark: bool = False) -> None:
    """Plot every file with a known loss.

    Args:
        pick: The files, the machine, the choice.
        path: File to write; ``.png`` or ``.svg``.
        title: Title of the plot.
        is_dark: Use a dark background.

    Raises:
        GgufHubError: No loss is known, or the file cannot be written.
    """
    from gguf_hub.errors import GgufHubError

    if not any(fit.loss for fit in pick.fits):
        raise GgufHubError(
            "nothing to plot: the loss of these files is unknown",
            hint="`gguf-hub pick --explain` shows the memory",
        )
    save(lambda: _figure(pick, title, DARK if is_dark else LIGHT), path)


def save(make: Callable[[], Any], path: Path) -> None:
    """Write a figure; a plot of ours that is there is replaced.

    Args:
        make: Returns the figure; called with matplotlib's own settings.
        path: File to write; ``.png`` or ``.svg``.

    Raises:
        GgufHubError: It cannot be written, or another file is in the way.
    """
    import matplotlib

    from gguf_hub.errors import GgufHubError
    from gguf_hub.files import require_ours, write_atomically

    kind = path.suffix.lower().removeprefix(".")
    signature = {"Software" if kind == "png" else "Creator": SIGNATURE.decode()}
    buffer = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a `matplotlibrc` of the working folder could have LaTeX run
        figure = make()
        figure.savefig(buffer, format=kind, facecolor=figure.get_facecolor(), metadata=signature)
    require_ours(path, _DESCRIPTION, _is_ours)
    try:
        write_atomically(Path(os.path.realpath(path)), buffer.getvalue())
    except OSError as error:
        raise GgufHubError(f"`{path}` cannot be written: {reason_of(error)}") from error


def _is_ours(head: bytes) -> bool:
    """Return whether the beginning of a file is that of our plots."""
    return (head.startswith(b"\x89PNG") or b"<svg" in head) and SIGNATURE in head


def _figure(pick: Pick, title: str, colours: Colours) -> Any:
    """Return the figure, without pyplot's windows and global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, facecolor=colours.paper, layout="constrained")
    axes = figure.subplots()
    _frame(axes, pick, title, colours)
    fits = [fit for fit in pick.fits if fit.loss]
    for fit in fits:
        _point(axes, fit, colours, is_chosen=fit is pick.chosen)
    _limit(axes, pick, colours)
    figure.draw_without_rendering()
    _labels(figure, axes, fits, pick, colours)
    return figure


def _frame(axes: Any, pick: Pick, title: str, colours: Colours) -> None:
    axes.set_facecolor(colours.paper)
    axes.set_yscale("symlog", linthresh=LINEAR_BELOW, linscale=0.5)
    worst = max(fit.loss.share * 100 for fit in pick.fits if fit.loss)
    ticks = [0, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    top = max(2.0, worst * 1.6)
    axes.set_ylim(-0.15, top)
    axes.set_yticks([tick for tick in ticks if tick <= top])
    axes.set_yticks([], minor=True)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
    axes.set_ylabel("perplexity above that of the best (lower is better)", color=colours.ink)
    is_any_estimated = any(fit.loss and fit.loss.is_estimated for fit in pick.fits)
    hollow = "; hollow: estimated" if is_any_estimated else ""
    axes.set_xlabel(
        f"memory at {pick.constraints.n_ctx} tokens of context, GB "
        f"(run by {pick.constraints.engine}{hollow})",
        color=colours.ink,
    )
    axes.set_title(title or "quality against memory", color=colours.ink, loc="left")
    axes.grid(color=colours.faint, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=colours.ink, which="both")
    for spine in axes.spines.values():
        spine.set_color(colours.faint)
    needs = [fit.need.total_bytes / 1e9 for fit in pick.fits]
    low, high = min(needs), max(*needs, *_limits(pick, max(needs)))
    margin = max(0.12 * (high - low), 0.08 * high)
    axes.set_xlim(max(0, low - margin), high + margin)


def _limits(pick: Pick, max_need_gb: float) -> Iterator[float]:
    """Yield the limit if it is near the files; one far beyond would squeeze them."""
    limit = _limit_gb(pick)
    yield limit if limit < 1.5 * max_need_gb else 0.0


def _limit_gb(pick: Pick) -> float:
    from gguf_hub.hub.fit.placement import memory_limit

    return memory_limit(pick.constraints, pick.machine) / 1e9


def _point(axes: Any, fit: Fit, colours: Colours, *, is_chosen: bool) -> None:
    assert fit.loss is not None
    x, y = fit.need.total_bytes / 1e9, fit.loss.share * 100
    colour = colours.fits if fit.is_fitting else colours.not_fits
    face = colours.paper if fit.loss.is_estimated else colour
    axes.plot(x, y, "o", markersize=8, color=colour, markerfacecolor=face, markeredgewidth=1.6)
    if is_chosen:
        axes.plot(
            x, y, "o", markersize=17, color=colours.fits, markerfacecolor="none", markeredgewidth=2
        )


def _limit(axes: Any, pick: Pick, colours: Colours) -> None:
    """Draw the memory limit as a line, and shade the area beyond."""
    limit = _limit_gb(pick)
    low, high = axes.get_xlim()
    if low < limit < high:
        axes.axvline(limit, color=colours.limit, linewidth=1.6, linestyle="--")
        axes.axvspan(limit, high, color=colours.limit, alpha=0.07, linewidth=0)
    side = "left" if limit < (low + high) / 2 else "right"
    text = f"limit {limit:.1f} GB"
    if limit >= high:
        side, text = "right", f"limit {limit:.1f} GB (beyond) →"
    elif limit <= low:
        side, text = "left", f"← limit {limit:.1f} GB"
    x_gb = min(max(limit, low), high)
    axes.annotate(
        text, (x_gb, 1), xycoords=("data", "axes fraction"), color=colours.limit, fontsize=9,
        xytext=(6 if side == "left" else -6, -6), textcoords="offset points",
        ha=side, va="top", gid="label",
    )  # fmt: skip


# offsets of a label from its point, in points, and its alignment; the best first
_LABEL_OFFSETS = [
    (11, 0, "left", "center"), (-11, 0, "right", "center"), (0, 12, "center", "bottom"),
    (0, -12, "center", "top"), (9, 9, "left", "bottom"), (-9, 9, "right", "bottom"),
    (9, -9, "left", "top"), (-9, -9, "right", "top"), (0, 26, "center", "bottom"),
    (0, -26, "center", "top"), (14, 22, "left", "bottom"), (-14, -22, "right", "top"),
    (0, 40, "center", "bottom"), (0, 54, "center", "bottom"), (0, -40, "center", "top"),
]  # fmt: skip


def _labels(figure: Any, axes: Any, fits: list[Fit], pick: Pick, colours: Colours) -> None:
    renderer = figure.canvas.get_renderer() if hasattr(figure.canvas, "get_renderer") else None
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    boxes += [_spot(axes, fit, 11 if fit is pick.chosen else 6) for fit in fits]
    low, high = axes.get_xlim()
    limit = _limit_gb(pick)
    if low < limit < high:
        boxes.append(_bar_at(axes, limit))
    # the chosen one first, for the best offset
    for fit in sorted(fits, key=lambda other: other is not pick.chosen):
        boxes.append(_label(figure, axes, fit, pick, colours, renderer, boxes))


def _label(
    figure: Any, axes: Any, fit: Fit, pick: Pick, colours: Colours, renderer: Any, boxes: list[Any]
) -> Any:
    assert fit.loss is not None
    is_chosen = fit is pick.chosen
    colour = (colours.fits if is_chosen else colours.ink) if fit.is_fitting else colours.not_fits
    point = (fit.need.total_bytes / 1e9, fit.loss.share * 100)
    frame, best = axes.get_window_extent(renderer), None
    for dx, dy, ha, va in _LABEL_OFFSETS:
        text = axes.annotate(
            fit.facts.quant, point, xytext=(dx * (1.4 if is_chosen else 1), dy),
            textcoords="offset points", ha=ha, va=va, fontsize=9.5, color=colour,
            fontweight="bold" if is_chosen else "normal", annotation_clip=False,
        )  # fmt: skip
        box = text.get_window_extent(renderer)
        is_inside = frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0
        hits = sum(box.overlaps(other) for other in boxes) + 3 * (
            not is_inside or box.y1 > frame.y1
        )
        if best is None or hits < best[0]:
            if best:
                best[1].remove()
            best = (hits, text, box)
        else:
            text.remove()
        if not hits:
            break
    assert best is not None
    return best[2]


def _spot(axes: Any, fit: Fit, radius: float) -> Any:
    """Return the bounding box of a point, in pixels."""
    from matplotlib.transforms import Bbox

    assert fit.loss is not None
    x, y = axes.transData.transform((fit.need.total_bytes / 1e9, fit.loss.share * 100))
    size = radius * axes.figure.dpi / 72
    return Bbox.from_extents(x - size, y - size, x + size, y + size)


def _bar_at(axes: Any, x_gb: float) -> Any:
    """Return the bounding box of the limit's line, in pixels."""
    from matplotlib.transforms import Bbox

    x, _ = axes.transData.transform((x_gb, 0))
    frame = axes.get_window_extent()
    return Bbox.from_extents(x - 3, frame.y0, x + 3, frame.y1)
