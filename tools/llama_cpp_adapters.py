"""Prints llama.cpp's logits of tiny models with LoRA adapters, for ``test_adapters.py``.

Run by hand where llama-cpp-python is installed, from the root of the repository:

    python -m tools.llama_cpp_adapters qwen2 llama-moe
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.arch_models import TOKENS
from tests.lora import SCALE, write_pair
from tools.llama_cpp_logits import F32, logits_of

N_LOGITS = 8
"""The first ones of the last token."""


def main(names: Sequence[str]) -> None:
    """Print the logits of each row of ``RECIPES``."""
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            model, adapter, _ = write_pair(Path(folder), name)
            logits = logits_of(model, TOKENS, F32, adapter, SCALE)[-1, :N_LOGITS]
            print(f'    "{name}": ({", ".join(f"{x:.5f}" for x in logits)}),')


if __name__ == "__main__":
    main(sys.argv[1:])
