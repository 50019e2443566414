"""Choosing the next token from logits.

Pure filters on candidates, composed in llama.cpp's order under llama.cpp's names and defaults. The
room knows ids and numbers, nothing of text; only DRY's sequence breakers ask a vocabulary once.
"""

from __future__ import annotations

from gguf_hub.run.sampler.chain import Constraint, Sampled, Sampler
from gguf_hub.run.sampler.config import SamplerConfig, parse_samplers
from gguf_hub.run.sampler.filters import Candidates, log_softmax

__all__ = ["Candidates", "Constraint", "Sampled", "Sampler", "SamplerConfig", "log_softmax",
           "parse_samplers"]  # fmt: skip
