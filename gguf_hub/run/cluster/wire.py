"""Settings, stages, batches and errors as JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from gguf_hub import errors
from gguf_hub.errors import ClusterError, GgufHubError
from gguf_hub.gguf.overrides import Override
from gguf_hub.run.cluster.stage import Batch
from gguf_hub.run.model.program import Stage
from gguf_hub.run.model.rope import RopeChange
from gguf_hub.run.model.settings import NO_GPU, ModelSettings

_PLAIN_ERRORS = (
    "UsageError", "UnsupportedGgufError", "GgufError", "ResourceError", "ProgramError",
    "ContextFullError", "ClusterError", "CacheLostError",
)  # fmt: skip
"""Errors that are made of a message and a hint alone."""


def settings_to_json(settings: ModelSettings) -> dict[str, Any]:
    """Return settings for ``settings_from_json``."""
    fields = asdict(settings)
    del fields["gpu"], fields["adapters"]  # a cluster takes none
    return fields


def settings_from_json(fields: Mapping[str, Any]) -> ModelSettings:
    """Return the settings of a stage; a stage has no GPU."""
    overrides = tuple(Override(**override) for override in fields["overrides"])
    rope = RopeChange(**fields["rope"])
    return ModelSettings(**{**fields, "overrides": overrides, "rope": rope, "gpu": NO_GPU})


def stage_from_json(fields: Mapping[str, Any]) -> Stage:
    """Return what ``asdict`` made of a stage."""
    return Stage(**fields)


def batch_from_json(head: Mapping[str, Any]) -> Batch:
    """Return what a message asks a stage to compute."""
    return Batch(head["tokens"], head["positions"], head["slots"], head["n_outputs"])


def error_to_json(error: Exception) -> dict[str, Any]:
    """Return an error for ``error_from_json``."""
    if isinstance(error, GgufHubError):
        kind = type(error).__name__
        return {"kind": kind, "message": error.message, "hint": error.hint}
    return {"kind": "ClusterError", "message": f"{type(error).__name__}: {error}", "hint": None}


def error_from_json(fields: Mapping[str, Any], where: str) -> GgufHubError:
    """Return the error that a stage met; unknown kinds are errors of the cluster."""
    name = fields["kind"] if fields["kind"] in _PLAIN_ERRORS else "ClusterError"
    kind: type[GgufHubError] = getattr(errors, name, ClusterError)
    return kind(f"{where}: {fields['message']}", hint=fields["hint"])
