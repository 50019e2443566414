"""The text generator of ``gguf-hub run``: engine, tokenizer and sampling settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguf_hub.progress import Progress
    from gguf_hub.run.generation import ContextShift, Generation
    from gguf_hub.run.generation.engine import Engine
    from gguf_hub.run.generation.generation import Timings
    from gguf_hub.run.generation.reasoning_budget import ReasoningBudget
    from gguf_hub.run.sampler import SamplerConfig
    from gguf_hub.run.tokenizer import Tokenizer


@dataclass
class TextGenerator:
    """Generates texts; all share one sampler state, as in llama.cpp.

    Attributes:
        engine: Runs the model.
        tokenizer: The model's.
        config: Sampling settings; ``set_option`` changes them.
        max_tokens: Maximum number of tokens of one text; negative for as many as fit.
        grammar: GBNF that constrains every text, or None.
        schema: JSON schema that constrains every text, or None.
        ignore_eos: Continue after the end-of-sequence token.
        generation: The last text.
        budget: Limits the reasoning of the next text, unless a grammar says what it is.
        prints_special: Print control tokens, where no grammar holds the text.
        n_keep: On a full context, keep so many tokens of the first prompt, discard half of the rest
            and continue (see ``ContextShift.after``); None to stop there.
    """

    engine: Engine
    tokenizer: Tokenizer
    config: SamplerConfig
    max_tokens: int = -1
    grammar: str | None = None
    schema: str | None = None
    ignore_eos: bool = False
    generation: Generation | None = None
    n_keep: int | None = None
    budget: ReasoningBudget | None = None
    prints_special: bool = False
    _shift: ContextShift | None = None

    def __post_init__(self) -> None:
        from gguf_hub.run.generation import GrammarCache
        from gguf_hub.run.sampler import Sampler

        self._grammars = GrammarCache(self.tokenizer)
        self._sampler = Sampler(self.config, self.tokenizer)

    def stream(
        self,
        prompt: Sequence[int],
        stops: Sequence[str] = (),
        progress: Progress | None = None,
        *,
        is_standalone: bool = True,
        must_fit: bool = False,
    ) -> Iterator[str]:
        """Yield the text after a prompt as it is generated, and leave it in ``generation``.

        Args:
            prompt: Token ids.
            stops: Texts that end it and are not shown.
            progress: Notified about the prompt.
            is_standalone: See ``Generation``.
            must_fit: Refuse a prompt that does not fit, even with a context shift.

        Raises:
            ContextFullError: The prompt does not fit the context.
        """
        from gguf_hub.progress import SILENT
        from gguf_hub.run.generation import Generation, GenerationRequest, LogitsSampler

        stop_ids = () if self.ignore_eos else self.tokenizer.eog_ids
        sampler = LogitsSampler(self._sampler_for_text())
        request = GenerationRequest(
            tuple(prompt), sampler, self.max_tokens, tuple(stops), stop_ids,
            prints_special=self.prints_special and self.grammar is None and self.schema is None,
        )  # fmt: skip
        n_ctx = self.engine.model.n_ctx
        shift = None if must_fit and len(prompt) > n_ctx else self._shift_of(prompt)
        self.generation = Generation(
            request, self.tokenizer, n_ctx, is_standalone=is_standalone, shift=shift
        )
        for delta in self.engine.stream(self.generation, progress or SILENT):
            if delta.text:
                yield delta.text

    @property
    def timings(self) -> Timings:
        """Timings of the last text."""
        from gguf_hub.run.generation.generation import Timings

        return self.generation.timings if self.generation else Timings()

    @property
    def n_generated(self) -> int:
        """Number of tokens of the last text."""
        return self.generation.n_generated if self.generation else 0

    @property
    def is_context_full(self) -> bool:
        """Whether the context ended the last text."""
        last = self.generation
        if last is None or last.finish_reason != "length":
            return False
        return last.n_generated != self.max_tokens

    def forget(self) -> None:
        """Treat the next prompt as the beginning of a new text."""
        self._shift = None

    def set_option(self, name: str, value: Any) -> None:
        """Change one sampling setting.

        Raises:
            UsageError: There is none of this name, or the value is invalid.
        """
        from gguf_hub.run.sampler import Sampler, SamplerConfig

        SamplerConfig.from_options(**{name: value})
        self.config = replace(self.config, **{name: value})
        self._sampler = Sampler(self.config, self.tokenizer)

    def _shift_of(self, prompt: Sequence[int]) -> ContextShift | None:
        """Return the context shift, which the first prompt of the text determines."""
        from gguf_hub.run.generation import ContextShift

        if self.n_keep is not None and self._shift is None:
            n_ctx, bos_id = self.engine.model.n_ctx, self.tokenizer.bos_id
            self._shift = ContextShift.after(prompt, self.n_keep, n_ctx, bos_id)
        return self._shift

    def _sampler_for_text(self) -> Any:
        """Return the shared sampler, or one with a fresh constraint for each text."""
        from gguf_hub.run.sampler import Sampler

        matcher = self._grammars.constraint(self.grammar, self.schema).matcher
        held = matcher or self.budget
        if held is None:
            return self._sampler
        return Sampler(self.config, self.tokenizer, held)
