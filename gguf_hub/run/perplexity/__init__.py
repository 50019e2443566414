"""How well a model predicts a text, and how far it is from another one.

Knows token ids and logits (``measure``), what is computed of them (``statistics``), and llama.cpp's
file of saved logits (``logits_file``); nothing of files of models, or of text.
"""

from __future__ import annotations

from gguf_hub.run.perplexity.logits_file import LogitsReader, LogitsWriter, write_logits
from gguf_hub.run.perplexity.measure import ModelSource, Source, cut, measure
from gguf_hub.run.perplexity.statistics import Divergence, Estimate, Perplexity, Result

__all__ = [
    "Divergence",
    "Estimate",
    "LogitsReader",
    "LogitsWriter",
    "ModelSource",
    "Perplexity",
    "Result",
    "Source",
    "cut",
    "measure",
    "write_logits",
]
