"""Output of ``perplexity``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gguf_hub.cli import console

if TYPE_CHECKING:
    from gguf_hub.run.perplexity import Divergence, Estimate, Perplexity, Result

# share of tokens -> name of the row
_QUANTILES = {0.5: "median", 0.9: "90 %", 0.99: "99 %", 0.999: "99.9 %", 1.0: "maximum"}


def report(model: str, result: Result, seconds: float, *, as_json: bool) -> None:
    """Print a result: JSON, or a table on stdout and the counts on stderr."""
    from gguf_hub.units import format_duration

    if as_json:
        console.print_json(as_dict(model, result, seconds))
        return
    rows = _rows(result)
    console.print_table(rows, ["", "value", "error"], align=["left", "right", "right"])
    scored = result.perplexity.n_scored
    console.note(
        f"{scored:,} tokens scored in {result.n_chunks:,} chunks of {result.n_ctx:,}, "
        f"{format_duration(seconds)}"
    )


def _rows(result: Result) -> list[tuple[str, str, str]]:
    rows = [_row("perplexity", result.perplexity.value, 4)]
    divergence = result.divergence
    if divergence is None:
        return rows
    rows += [
        _row("perplexity of the base", divergence.base.value, 4),
        _row("ratio", divergence.ratio, 5),
        _row("ln(ratio)", divergence.ln_ratio, 5),
        _row("KL divergence, mean", divergence.kl, 6),
    ]
    for share, name in _QUANTILES.items():
        rows.append((f"KL divergence, {name}", f"{divergence.kl_quantiles[share]:.6f}", ""))
    rows += [
        _row("same likeliest token", divergence.same_top, 3, percent=True),
        _row("Δp, mean", divergence.dp_mean, 3, percent=True),
        _row("Δp, root mean square", divergence.dp_rms, 3, percent=True),
    ]
    return rows


def _row(
    name: str, estimate: Estimate, n_decimals: int, *, percent: bool = False
) -> tuple[str, str, str]:
    factor, unit = (100, " %") if percent else (1, "")
    value, error = estimate.value * factor, estimate.error * factor
    return name, f"{value:.{n_decimals}f}{unit}", f"± {error:.{n_decimals}f}{unit}"


def as_dict(model: str, result: Result, seconds: float) -> dict[str, Any]:
    """Return the JSON output."""
    return {
        "model": model,
        "n_ctx": result.n_ctx,
        "n_chunks": result.n_chunks,
        "seconds": round(seconds, 3),
        **_perplexity(result.perplexity),
        "divergence": _divergence(result.divergence) if result.divergence else None,
    }


def _divergence(divergence: Divergence) -> dict[str, Any]:
    data = asdict(divergence) | {"base": _perplexity(divergence.base)}
    data["ratio"] = asdict(divergence.ratio)
    data["kl"]["quantiles"] = _quantiles(data.pop("kl_quantiles"))
    data["dp_quantiles"] = _quantiles(data["dp_quantiles"])
    return data


def _perplexity(perplexity: Perplexity) -> dict[str, Any]:
    data = asdict(perplexity)
    return {"perplexity": data.pop("value"), **data}


def _quantiles(quantiles: dict[float, float]) -> dict[str, float]:
    return {f"{share:g}": value for share, value in quantiles.items()}
