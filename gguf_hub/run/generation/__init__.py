"""One text in progress: from logits to text deltas, and OpenAI's answers made of them.

The room knows prompts, stop texts, log probabilities, OpenAI's answers, conversations and tools.
It knows no engine and no cache: the caller feeds logits to a ``Generation``. So the
command line, ``Llama``, LangChain and the server write the same text from the same settings.
"""

from __future__ import annotations

from gguf_hub.run.generation.generation import Generation, GenerationRequest, TextDelta
from gguf_hub.run.generation.grammar_cache import GrammarCache, OutputConstraint
from gguf_hub.run.generation.logits_sampler import LogitsSampler, TokenLogprob
from gguf_hub.run.generation.settings import sampler_config
from gguf_hub.run.generation.shift import ContextShift
from gguf_hub.run.generation.stops import StopText

__all__ = [
           "ContextShift",
           "Generation",
           "GenerationRequest",
           "GrammarCache",
           "LogitsSampler",
           "OutputConstraint",
           "StopText",
           "TextDelta",
           "TokenLogprob",
           "sampler_config",
]  # fmt: skip
