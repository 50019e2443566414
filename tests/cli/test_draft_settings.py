"""A draft model is opened by whoever has its file."""

from __future__ import annotations

from pathlib import Path

from gguf_hub.cli.run.opening import draft_settings


def test_a_process_of_the_router_needs_no_token(embedded: Path) -> None:
    options = {"model_draft": str(embedded), "draft_max": 5, "draft_min": 1, "draft_p_min": 0.5,
               "catalog_path": None, "yes": True}  # fmt: skip
    settings = draft_settings(options)
    assert (settings.path, settings.n_max) == (embedded, 5)
