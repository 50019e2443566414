"""The measurements of ``compare``: one model after another, against the logits of the first."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf_hub.cli.measure.measuring import Measuring

if TYPE_CHECKING:
    from gguf_hub.progress import Progress
    from gguf_hub.run.perplexity import Result


@dataclass(frozen=True)
class Row:
    """What one model gave.

    Attributes:
        model: Its argument.
        name: What to call it.
        size_bytes: Of its files.
        bits_per_weight: Of its tensors.
        result: Perplexity; divergence from the base, if it is another.
        tok_per_s: Tokens of the text that it read in a second.
    """

    model: str
    name: str
    size_bytes: int
    bits_per_weight: float
    result: Result
    tok_per_s: float


def compare(models: Sequence[str], options: dict[str, Any], progress: Progress) -> list[Row]:
    """Measure models on one text.

    Args:
        models: Arguments; the first is the base, unless its logits are there.
        options: Those of the command, by name.
        progress: Notified about downloads, compiling and chunks.

    Raises:
        GgufHubError: A model, the text or the logits cannot be used.
    """
    kept: Path | None = options["logits_path"]
    with tempfile.TemporaryDirectory(prefix="gguf-hub-") as folder:
        logits = kept or Path(folder) / "base.logits"
        rows = []
        for model in models:
            has_base = logits.exists()
            own = options | {"base": None, "logits_path": logits, "kl_divergence": has_base}
            rows.append(_measure(model, own, progress))
        return rows


def _measure(model: str, options: dict[str, Any], progress: Progress) -> Row:
    from gguf_hub.gguf.format import count_elements
    from gguf_hub.gguf.shard_names import model_name

    with Measuring(options, progress) as measuring:
        result = measuring.run(model)
        file = measuring.files[0]
        n_weights = sum(count_elements(info.shape) for info in file.tensors.values())
        n_bytes = sum(info.size_bytes for info in file.tensors.values())
        return Row(
            model=model,
            name=model_name(file.path),
            size_bytes=file.size_bytes,
            bits_per_weight=8 * n_bytes / max(1, n_weights),
            result=result,
            tok_per_s=result.n_chunks * result.n_ctx / max(measuring.seconds, 1e-9),
        )
