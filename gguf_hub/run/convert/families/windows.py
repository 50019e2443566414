"""Windows of attention, as configurations state them."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguf_hub.run.convert.config import ConfigReader
from gguf_hub.run.convert.families.family import Keys

KINDS = {"sliding_attention": True, "full_attention": False}


def add_window(config: ConfigReader, keys: Keys, *, period: Any) -> None:
    """Add the length of windows and which layers have one, all but every ``period``-th."""
    n_layer = keys["block_count"]
    length = config.integer("sliding_window", 0, least=0)
    flags = config.layers("layer_types", n_layer, KINDS)
    keys["attention.sliding_window"] = length
    if not length:
        return
    if not isinstance(period, int) or isinstance(period, bool) or period < 1:
        config.issues.append(f"`sliding_window_pattern`: expected a number, found {period!r:.40}")
        return
    stated = flags or [(i + 1) % period != 0 for i in range(n_layer)]
    keys["attention.sliding_window_pattern"] = np.array(stated, np.bool_)
