"""The small model in the package: a Mixtral that writes simple stories."""

from __future__ import annotations

from pathlib import Path


def embedded_model() -> Path:
    """Return the file of the embedded model, in full precision.

    Raises:
        GgufHubError: This installation has none.
    """
    import gguf_hub
    from gguf_hub.errors import GgufHubError

    folder = Path(gguf_hub.__file__).parent / "data"
    files = sorted(folder.glob("tiny-mixtral*.gguf"))
    if not files:
        raise GgufHubError(
            f"the embedded model is missing: no `tiny-mixtral*.gguf` in `{folder}`",
            hint="install gguf-hub again: `pip install --force-reinstall gguf-hub`",
        )
    return files[0]
