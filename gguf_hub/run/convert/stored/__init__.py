"""The matrices of a checkpoint, whatever holds them: floats, or codes with scales.

``opening`` finds out how weights are stored; a ``Matrix`` gives rows as floats, or as the blocks of
a GGUF type that holds its codes as they are.
"""

from __future__ import annotations

from gguf_hub.run.convert.stored.matrix import Matrix, Plain
from gguf_hub.run.convert.stored.opening import open_matrices

__all__ = ["Matrix", "Plain", "open_matrices"]
