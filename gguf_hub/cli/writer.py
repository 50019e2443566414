"""What writes for ``gguf-hub run``: an engine, a tokenizer and the settings of the flags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguf_hub.completion import Run
    from gguf_hub.engine import Drafter, Engine
    from gguf_hub.progress import Progress
    from gguf_hub.sampler import SamplerConfig
    from gguf_hub.tokenizer import Tokenizer


@dataclass
class Writer:
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
        drafter: Guesses tokens, which are checked several at a time; None for none.
    """

    engine: Engine
    tokenizer: Tokenizer
    config: SamplerConfig
    max_tokens: int = -1
    grammar: str | None = None
    schema: str | None = None
    ignores_eos: bool = False
    run: Run | None = None
    drafter: Drafter | None = None

    def __post_init__(self) -> None:
        from gguf_hub.completion import GrammarBook
        from gguf_hub.sampler import Sampler

        self._grammars = GrammarBook(self.tokenizer)
        self._sampler = Sampler(self.config, self.tokenizer)

    def write(
        self,
        prompt: Sequence[int],
        stops: Sequence[str] = (),
        progress: Progress | None = None,
        *,
        is_whole: bool = True,
    ) -> Iterator[str]:
        """Yield the text after a prompt as it becomes complete; ``run`` tells how it ended.

        Args:
            prompt: Token ids.
            stops: Texts that end it and are not shown.
            progress: Told about the prompt.
            is_whole: As for ``Run``.

        Raises:
            ContextFullError: The prompt does not fit the context.
        """
        from gguf_hub.completion import Chooser, Job, Run
        from gguf_hub.engine import Timings
        from gguf_hub.progress import SILENT

        stop_ids = () if self.ignores_eos else self.tokenizer.eog_ids
        chooser = Chooser(self._held())
        job = Job(tuple(prompt), chooser, self.max_tokens, tuple(stops), stop_ids)
        n_ctx = self.engine.model.n_ctx
        run = self.run = Run(job, self.tokenizer, n_ctx, is_whole=is_whole)
        self.engine.timings = Timings()
        if len(prompt) <= n_ctx and run.begin() is not None:
            return
        logits = self.engine.prefill(run.tokens, progress or SILENT)
        began = _now()
        while True:
            piece = run.take(logits)
            self.engine.timings.n_generated = run.n_generated
            self.engine.timings.generate_s = _now() - began
            if piece.text:
                yield piece.text
            if run.is_done:
                self.engine.finish_reason = run.finish_reason
                return
            n_left = -1 if self.max_tokens < 0 else self.max_tokens - run.n_generated
            logits = self.engine.next_logits(run.tokens, self.drafter, n_left)

    def set_option(self, name: str, value: Any) -> None:
        """Change one setting of the sampler.

        Raises:
            UsageError: There is none of this name, or the value cannot be.
        """
        from gguf_hub.sampler import Sampler, SamplerConfig

        SamplerConfig.from_options(**{name: value})
        self.config = replace(self.config, **{name: value})
        self._sampler = Sampler(self.config, self.tokenizer)

    def _held(self) -> Any:
        """Return the sampler; a fresh constraint for each text, where there is one."""
        from gguf_hub.sampler import Sampler

        if self.grammar is not None:
            return Sampler(self.config, self.tokenizer, self._grammars.gbnf(self.grammar))
        if self.schema is not None:
            return Sampler(self.config, self.tokenizer, self._grammars.schema(self.schema))
        return self._sampler


def _now() -> float:
    import time

    return time.perf_counter()
