"""Choosing the next token from logits.

Pure filters on candidates, composed in llama.cpp's order under llama.cpp's names and defaults. The
room knows ids and numbers, nothing of text; only DRY's sequence breakers ask a vocabulary once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gguf_hub.run.sampler.config import SamplerConfig, parse_samplers

if TYPE_CHECKING:
    from gguf_hub.run.sampler.chain import Constraint, Proposal, Proposer, Sampled, Sampler
    from gguf_hub.run.sampler.filters import Candidates, log_softmax

__all__ = ["Candidates", "Constraint", "Proposal", "Proposer", "Sampled", "Sampler",
           "SamplerConfig", "log_softmax", "parse_samplers"]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import what computes when it is used: the command line's help reads the settings alone."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gguf_hub.run.sampler import chain, filters

    return getattr(chain, name, None) or getattr(filters, name)
