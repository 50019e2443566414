"""Sampling settings as programs write them: llama-cpp-python's and OpenAI's names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gguf_hub.errors import UsageError
from gguf_hub.run.sampler import SamplerConfig, parse_samplers

_NAMES = {"temperature": "temp", "mirostat_mode": "mirostat"}

_REMOVED_STEPS = frozenset({"tfs_z", "tfs"})
"""Steps that llama.cpp has removed and skips; clients still name them in ``samplers``."""


def sampler_config(options: Mapping[str, Any]) -> SamplerConfig:
    """Return checked settings.

    Args:
        options: Values by name, None for the default. ``logit_bias`` may have texts of numbers as
            keys, as JSON has; a ``seed`` is taken modulo 2^32; ``samplers`` may be a list of names.

    Raises:
        UsageError: A value is out of its interval, or a key of ``logit_bias`` is not a token id.
    """
    settings = {_NAMES.get(name, name): value for name, value in options.items()}
    if settings.get("logit_bias"):
        settings["logit_bias"] = _parse_logit_bias(settings["logit_bias"])
    if isinstance(steps := settings.get("samplers"), (list, tuple)):
        steps = [step for step in steps if step.strip().lower() not in _REMOVED_STEPS]
        settings["samplers"] = parse_samplers(";".join([*steps, ""]))
    if isinstance(seed := settings.get("seed"), int) and seed != -1:
        settings["seed"] = seed % 2**32
    return SamplerConfig.from_options(**settings)


_MAX_BIAS = 1000.0  # larger than any difference of logits, without overflow


def _clamp(bias: float) -> float:
    return bias if bias == -math.inf else max(-_MAX_BIAS, min(_MAX_BIAS, bias))


def _parse_logit_bias(biases: Mapping[Any, Any]) -> dict[int, float]:
    try:
        return {int(token_id): _clamp(float(value)) for token_id, value in biases.items()}
    except (TypeError, ValueError) as exc:
        raise UsageError(
            f"logit_bias: expected token ids and numbers, found {dict(biases)}",
            hint='write {"1234": -1.5}',
        ) from exc
