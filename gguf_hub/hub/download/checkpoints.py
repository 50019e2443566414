"""Which files of a listing are a checkpoint in safetensors: weights, configuration, tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gguf_hub.errors import RemoteFileNotFoundError
from gguf_hub.hub.client import RemoteFile, RepoListing
from gguf_hub.hub.download.names import check_distinct, check_safe
from gguf_hub.hub.download.plan import FileSelector

CONFIG = "config.json"
_WEIGHTS = re.compile(r"model(-\d{1,6}-of-\d{1,6})?\.safetensors")
_NAMES = frozenset({
    CONFIG, "model.safetensors.index.json", "tokenizer.json", "tokenizer.model",
    "tekken.json", "tiktoken.model",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "generation_config.json", "chat_template.jinja", "quantize_config.json", "quant_config.json",
})  # fmt: skip


def select_checkpoint(listing: RepoListing, selector: FileSelector) -> Sequence[RemoteFile]:
    """Return the files that a conversion reads; they lie at the top of the repository.

    Args:
        listing: What there is.
        selector: What was asked for; a repository and nothing in it.

    Raises:
        RemoteFileNotFoundError: There is no checkpoint.
        HubError: A name would do harm in the target folder.
    """
    files = [f for f in listing.files if f.path in _NAMES or _WEIGHTS.fullmatch(f.path)]
    names = {file.path for file in files}
    if CONFIG not in names or not any(map(_WEIGHTS.fullmatch, names)):
        raise RemoteFileNotFoundError(
            f"repository `{listing.repo_id}` has no checkpoint in safetensors: expected `{CONFIG}` "
            "and `model*.safetensors`",
            repo_id=listing.repo_id,
            hint="Mistral's own format (consolidated.*) and pickled weights are not read",
        )
    for file in files:
        check_safe(file.path, listing.repo_id)
    check_distinct(names, listing.repo_id)
    return files


def weights_bytes(files: Sequence[RemoteFile]) -> int:
    """Return the size of the weights among some files."""
    return sum(file.size_bytes for file in files if _WEIGHTS.fullmatch(file.path))
