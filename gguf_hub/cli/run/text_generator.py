"""What writes for ``gguf-hub run``: an engine, a tokenizer and the settings of the flags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguf_hub.progress import Progress
    from gguf_hub.run.generation import ContextShift, Generation
    from gguf_hub.run.generation.engine import Engine
    from gguf_hub.run.generation.generation import Timings
    from gguf_hub.run.sampler import SamplerConfig
    from gguf_hub.run.tokenizer import Tokenizer


@dataclass
class TextGenerator:
    """Writes texts; one sampler goes through all of them, as in llama.cpp.

    Attributes:
        engine: Computes.
        tokenizer: The model's.
        config: How tokens are chosen; ``set_option`` changes it.
        max_tokens: The most tokens of one text; negative for as many as fit.
        grammar: GBNF that every text must follow, or None.
        schema: JSON schema that every text must satisfy, or None.
        ignores_eos: Go on after the end-of-sequence token.
        run: The last text.
        n_keep: Where the context is full, keep so many tokens of the first prompt, forget half of
            the rest and go on (see ``ContextShift.after``); None to stop there.
    """

    engine: Engine
    tokenizer: Tokenizer
    config: SamplerConfig
    max_tokens: int = -1
    grammar: str | None = None
    schema: str | None = None
    ignores_eos: bool = False
    run: Generation | None = None
    n_keep: int | None = None
    _shift: ContextShift | None = None

    def __post_init__(self) -> None:
        from gguf_hub.run.generation import GrammarCache
        from gguf_hub.run.sampler import Sampler

        self._grammars = GrammarCache(self.tokenizer)
        self._sampler = Sampler(self.config, self.tokenizer)

    def write(
        self,
        prompt: Sequence[int],
        stops: Sequence[str] = (),
        progress: Progress | None = None,
        *,
        is_whole: bool = True,
        must_fit: bool = False,
    ) -> Iterator[str]:
        """Yield the text after a prompt as it becomes complete; ``run`` tells how it ended.

        Args:
            prompt: Token ids.
            stops: Texts that end it and are not shown.
            progress: Told about the prompt.
            is_whole: As for ``Generation``.
            must_fit: Refuse a prompt that does not fit, even where the context goes on.

        Raises:
            ContextFullError: The prompt does not fit the context.
        """
        from gguf_hub.progress import SILENT
        from gguf_hub.run.generation import Generation, GenerationRequest, LogitsSampler

        stop_ids = () if self.ignores_eos else self.tokenizer.eog_ids
        chooser = LogitsSampler(self._held())
        job = GenerationRequest(tuple(prompt), chooser, self.max_tokens, tuple(stops), stop_ids)
        n_ctx = self.engine.model.n_ctx
        shift = None if must_fit and len(prompt) > n_ctx else self._shift_after(prompt)
        self.run = Generation(job, self.tokenizer, n_ctx, is_whole=is_whole, shift=shift)
        for delta in self.engine.stream(self.run, progress or SILENT):
            if delta.text:
                yield delta.text

    @property
    def timings(self) -> Timings:
        """What the last text has cost."""
        from gguf_hub.run.generation.generation import Timings

        return self.run.timings if self.run else Timings()

    @property
    def n_generated(self) -> int:
        """Tokens of the last text."""
        return self.run.n_generated if self.run else 0

    @property
    def is_context_full(self) -> bool:
        """Whether the context ended the last text."""
        run = self.run
        return (
            run is not None and run.finish_reason == "length" and run.n_generated != self.max_tokens
        )

    def forget(self) -> None:
        """Take the next prompt for the first one of a new text."""
        self._shift = None

    def set_option(self, name: str, value: Any) -> None:
        """Change one setting of the sampler.

        Raises:
            UsageError: There is none of this name, or the value cannot be.
        """
        from gguf_hub.run.sampler import Sampler, SamplerConfig

        SamplerConfig.from_options(**{name: value})
        self.config = replace(self.config, **{name: value})
        self._sampler = Sampler(self.config, self.tokenizer)

    def _shift_after(self, prompt: Sequence[int]) -> ContextShift | None:
        """Return how the text goes on where the context ends: as its first prompt has it."""
        from gguf_hub.run.generation import ContextShift

        if self.n_keep is not None and self._shift is None:
            n_ctx, bos_id = self.engine.model.n_ctx, self.tokenizer.bos_id
            self._shift = ContextShift.after(prompt, self.n_keep, n_ctx, bos_id)
        return self._shift

    def _held(self) -> Any:
        """Return the sampler; a fresh constraint for each text, where there is one."""
        from gguf_hub.run.sampler import Sampler

        if self.grammar is not None:
            return Sampler(self.config, self.tokenizer, self._grammars.gbnf(self.grammar))
        if self.schema is not None:
            return Sampler(self.config, self.tokenizer, self._grammars.schema(self.schema))
        return self._sampler
