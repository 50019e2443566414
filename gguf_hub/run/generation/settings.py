"""Sampling settings as programs write them: llama-cpp-python's and OpenAI's names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gguf_hub.errors import UsageError
from gguf_hub.run.sampler import SamplerConfig

_NAMES = {"temperature": "temp", "mirostat_mode": "mirostat"}


def sampler_config(options: Mapping[str, Any]) -> SamplerConfig:
    """Return checked settings.

    Args:
        options: Values by name, None for the default. ``logit_bias`` may have texts of numbers as
            keys, as JSON has; a ``seed`` is taken modulo 2^32.

    Raises:
        UsageError: A value is out of its interval, or a key of ``logit_bias`` is no token id.
    """
    named = {_NAMES.get(name, name): value for name, value in options.items()}
    if named.get("logit_bias"):
        named["logit_bias"] = _bias(named["logit_bias"])
    if isinstance(seed := named.get("seed"), int) and seed != -1:
        named["seed"] = seed % 2**32
    return SamplerConfig.from_options(**named)


_MOST_BIAS = 1000.0  # more than any logits differ by, and no trouble for their arithmetic


def _clamped(bias: float) -> float:
    return bias if bias == -math.inf else max(-_MOST_BIAS, min(_MOST_BIAS, bias))


def _bias(given: Mapping[Any, Any]) -> dict[int, float]:
    try:
        return {int(token_id): _clamped(float(value)) for token_id, value in given.items()}
    except (TypeError, ValueError) as exc:
        raise UsageError(
            f"logit_bias: expected token ids and numbers, found {dict(given)}",
            hint='write {"1234": -1.5}',
        ) from exc
