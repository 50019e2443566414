"""How ``gguf-hub pick`` shows what it found: a table for people, plain data for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gguf_hub.cli import console

if TYPE_CHECKING:
    from gguf_hub.catalog import Catalog, CatalogFile
    from gguf_hub.fit import FileFacts, Fit, Pick


def print_pick(catalog: Catalog, found: Pick, commands: list[str]) -> None:
    """Print the table, the reason and the next commands."""
    from gguf_hub.fit import best_of

    best = best_of(found.fits)
    console.print_table(
        [_row(file, fit, found, best) for file, fit in zip(catalog.files, found.fits, strict=True)],
        ["quant", "bits", "size", "needs", "verdict", "perplexity", "loss", ""],
        align=["left", "right", "right", "right", "left", "right", "right", "left"],
    )
    console.say(f"\n{found.reason}")
    if commands:
        console.say("\n" + "\n".join(f"  {console.style(line, 'cyan')}" for line in commands))
    for file in catalog.files:
        if file.perplexity and file.perplexity.is_estimated:
            console.note(f"\n~ {file.quant}: estimated; {file.perplexity.note}")


def _row(file: CatalogFile, fit: Fit, found: Pick, best: FileFacts | None) -> list[str]:
    from gguf_hub.fit import loss_against
    from gguf_hub.units import format_gb

    facts, is_chosen = fit.facts, fit is found.chosen
    loss = loss_against(facts, best)
    about = "~" if facts.is_perplexity_estimated else ""
    marks = ["<- pick"] * is_chosen + ["recommended by the card"] * facts.is_recommended
    return [
        console.style(file.quant, bold=is_chosen),
        str(file.bits or "-"),
        format_gb(file.size_bytes),
        format_gb(fit.need.total_bytes),
        console.style(fit.verdict.value, "green" if fit.is_fitting else "red"),
        f"{about}{facts.perplexity:.4f}" if facts.perplexity is not None else "-",
        "-" if loss is None else f"{loss * 100:.1f} %",
        ", ".join(marks),
    ]


def report(
    catalog: Catalog, found: Pick, asked: dict[str, Any], commands: list[str]
) -> dict[str, Any]:
    """Return all that the table says, and the terms of the sums, as plain data."""
    from gguf_hub.fit import best_of

    best = best_of(found.fits)
    files = zip(catalog.files, found.fits, strict=True)
    return {
        "repo_id": catalog.repo_id,
        "revision": catalog.revision,
        **asked,
        "recommended": found.chosen.facts.quant if found.chosen else None,
        "reason": found.reason,
        "commands": commands,
        "files": [_entry(file, fit, found, best) for file, fit in files],
    }


def _entry(file: CatalogFile, fit: Fit, found: Pick, best: FileFacts | None) -> dict[str, Any]:
    from gguf_hub.fit import loss_against

    return {
        "quant": file.quant,
        "filename": file.filename,
        "bits": file.bits,
        "size_bytes": file.size_bytes,
        "need_ram_bytes": fit.need.total_bytes,
        "weights_bytes": fit.need.weights_bytes,
        "kv_bytes": fit.need.kv_bytes,
        "scratch_bytes": fit.need.scratch_bytes,
        "active_bytes": fit.facts.active_bytes,
        "active_bytes_is_estimated": fit.facts.are_parts_estimated,
        "verdict": fit.verdict.value,
        "perplexity": fit.facts.perplexity,
        "perplexity_is_estimated": fit.facts.is_perplexity_estimated,
        "loss": loss_against(fit.facts, best),
        "recommended": fit is found.chosen,
        "recommended_by_card": fit.facts.is_recommended,
    }
