"""What config.json and the tensors of a checkpoint are called in GGUF, by architecture.

A record for each (``records``, ``more``): its keys beyond those that all have, and the names of
its tensors where they are not Llama's, with what is done to their rows (``makes``). Which tensors
there must be and their shapes ``gguf.arch`` knows.
"""

from __future__ import annotations

from gguf_hub.run.convert.families.family import Family
from gguf_hub.run.convert.families.records import FAMILIES

__all__ = ["FAMILIES", "Family"]
