"""How ``perplexity`` shows what it measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gguf_hub.cli import console

if TYPE_CHECKING:
    from gguf_hub.run.perplexity import Divergence, Estimate, Perplexity, Result

# share of tokens -> name of the row
_SHOWN = {0.5: "median", 0.9: "90 %", 0.99: "99 %", 0.999: "99.9 %", 1.0: "maximum"}


def report(model: str, result: Result, seconds: float, *, as_json: bool) -> None:
    """Print a result: JSON, or a table on stdout and what it cost on stderr."""
    from gguf_hub.units import format_duration

    if as_json:
        console.print_json(facts(model, result, seconds))
        return
    rows = _rows(result)
    console.print_table(rows, ["", "value", "error"], align=["left", "right", "right"])
    scored = result.perplexity.n_scored
    console.note(
        f"{scored:,} tokens predicted in {result.n_chunks:,} chunks of {result.n_ctx:,}, "
        f"{format_duration(seconds)}"
    )


def _rows(result: Result) -> list[tuple[str, str, str]]:
    """Return the rows of the table."""
    rows = [_row("perplexity", result.perplexity.value, 4)]
    found = result.divergence
    if found is None:
        return rows
    rows += [
        _row("perplexity of the base", found.base.value, 4),
        _row("ratio", found.ratio, 5),
        _row("ln(ratio)", found.ln_ratio, 5),
        _row("KL divergence, mean", found.kl, 6),
    ]
    for share, name in _SHOWN.items():
        rows.append((f"KL divergence, {name}", f"{found.kl_quantiles[share]:.6f}", ""))
    rows += [
        _row("same likeliest token", found.same_top, 3, percent=True),
        _row("Δp, mean", found.dp_mean, 3, percent=True),
        _row("Δp, root mean square", found.dp_rms, 3, percent=True),
    ]
    return rows


def _row(
    name: str, estimate: Estimate, places: int, *, percent: bool = False
) -> tuple[str, str, str]:
    """Return one row."""
    factor, unit = (100, " %") if percent else (1, "")
    value, error = estimate.value * factor, estimate.error * factor
    return name, f"{value:.{places}f}{unit}", f"± {error:.{places}f}{unit}"


def facts(model: str, result: Result, seconds: float) -> dict[str, Any]:
    """Return what ``--json`` prints."""
    return {
        "model": model,
        "n_ctx": result.n_ctx,
        "n_chunks": result.n_chunks,
        "seconds": round(seconds, 3),
        **_perplexity(result.perplexity),
        "divergence": _divergence(result.divergence) if result.divergence else None,
    }


def _divergence(found: Divergence) -> dict[str, Any]:
    return {
        "base": _perplexity(found.base),
        "ratio": _estimate(found.ratio),
        "ln_ratio": _estimate(found.ln_ratio),
        "kl": {**_estimate(found.kl), "quantiles": _quantiles(found.kl_quantiles)},
        "same_top": _estimate(found.same_top),
        "dp_mean": _estimate(found.dp_mean),
        "dp_rms": _estimate(found.dp_rms),
        "dp_quantiles": _quantiles(found.dp_quantiles),
        "correlation": found.correlation,
    }


def _perplexity(found: Perplexity) -> dict[str, Any]:
    return {
        "perplexity": _estimate(found.value),
        "nll": _estimate(found.nll),
        "n_scored": found.n_scored,
    }


def _estimate(found: Estimate) -> dict[str, float]:
    return {"value": found.value, "error": found.error}


def _quantiles(found: dict[float, float]) -> dict[str, float]:
    return {f"{share:g}": value for share, value in found.items()}
