"""A file with the tokens of a prompt and their K/V cache, for the next run.

Our own layout, little-endian; only files that begin with the signature are replaced.

    24 bytes signature · 32 bytes hash of the model id · uint64 tokens · uint64 numbers ·
    uint32 CRC-32 of the rest · int64 [tokens] · uint16 [numbers]

Nothing is read that the model's own cache could not hold, whatever a file announces.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from gguf_hub.errors import GgufHubError
from gguf_hub.files import open_regular, require_ours
from gguf_hub.gguf.atomic import new_file
from gguf_hub.gguf.copying import write_all

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gguf_hub.gguf.shards import Gguf
    from gguf_hub.run.cluster.model import Model

SIGNATURE = b"gguf-hub prompt cache 1\n"
_HEADER = struct.Struct("<24s32sQQI")
_SAMPLE_BYTES = 4096


class UnusableError(GgufHubError):
    """A saved prompt that cannot be used here; the message says why."""


@dataclass(frozen=True)
class SavedPrompt:
    """Tokens, and the numbers that ``Transformer.load_cache`` takes for as many positions."""

    tokens: list[int]
    cache: NDArray[np.uint16]


def model_id_of(model: Model, file: Gguf) -> str:
    """Return an id of models that can share a cache.

    Of the weights, it covers some bytes at the beginning, in the middle and at the end; of LoRA
    adapters, all.
    """
    middle = (file.data_offset + len(file.data)) // 2
    digest = hashlib.sha256()
    for start, end in (
        (0, file.data_offset + _SAMPLE_BYTES),
        (middle, middle + _SAMPLE_BYTES),
        (-_SAMPLE_BYTES, None),
    ):
        digest.update(file.data[start:end].tobytes())
    digest.update(model.config.adapters_id.encode())
    return f"{model.config!r} {model.n_ctx} {model.cache_types} {digest.hexdigest()}"


def require_replaceable(path: Path) -> None:
    """Refuse to replace a file that is not a saved prompt.

    Raises:
        GgufHubError: The file is something else, or its folder does not exist.
    """
    if not path.absolute().parent.is_dir():
        raise GgufHubError(f"cannot write the prompt cache `{path}`: no folder `{path.parent}`")
    require_ours(path, "a prompt cache", lambda head: head.startswith(SIGNATURE))


def write(path: Path, tokens: list[int], model: Model, model_id: str) -> None:
    """Save a prompt.

    Args:
        path: The file; a saved prompt there is replaced last, through symbolic links.
        tokens: The first tokens of the cache.
        model: The model; its first slot is saved.
        model_id: Identifies models that can share a cache.

    Raises:
        GgufHubError: It cannot be written, or something else is there.
    """
    saved = SavedPrompt(tokens, model.save_cache(len(tokens)))
    write_saved(Path(os.path.realpath(path)), saved, model_id)


def write_saved(path: Path, saved: SavedPrompt, model_id: str) -> int:
    """Write a saved prompt to a file that is no link; return its bytes.

    Raises:
        GgufHubError: It cannot be written, or something else is there.
    """
    require_replaceable(path)
    tokens = saved.tokens
    arrays = np.array(tokens, "<i8"), saved.cache.astype("<u2", copy=False)
    crc = zlib.crc32(arrays[1].data, zlib.crc32(arrays[0].data))
    head = _HEADER.pack(SIGNATURE, _digest(model_id), len(tokens), arrays[1].size, crc)
    size_bytes = len(head) + sum(array.nbytes for array in arrays)
    with new_file(path, size_bytes) as new:
        write_all(new.descriptor, head)
        for array in arrays:
            write_all(new.descriptor, array.view(np.uint8).data)
    return size_bytes


def read(path: Path, model: Model, model_id: str) -> SavedPrompt:
    """Read the saved prompt of a model.

    Raises:
        UnusableError: The file is not a saved prompt, is damaged, or belongs to another model.
        OSError: It cannot be read.
    """
    return read_saved(Path(os.path.realpath(path)), model, model_id)


def read_saved(path: Path, model: Model, model_id: str) -> SavedPrompt:
    """Read a saved prompt from a file that is no link; see ``read``."""
    with os.fdopen(open_regular(path), "rb") as file:
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(SIGNATURE):
            raise UnusableError("is not a prompt cache")
        _, digest, n_tokens, n_numbers, crc = _HEADER.unpack(head)
        if digest != _digest(model_id):
            raise UnusableError("has another model, context, cache type or position embedding")
        is_complete = n_tokens <= model.n_ctx and n_numbers == model.cache_size(n_tokens)
        size_bytes = _HEADER.size + 8 * n_tokens + 2 * n_numbers
        if not is_complete or os.fstat(file.fileno()).st_size != size_bytes:
            raise UnusableError("is damaged")
        return _read_body(file, n_tokens, n_numbers, crc, model.config.n_vocab)


def _read_body(
    file: BinaryIO, n_tokens: int, n_numbers: int, crc: int, n_vocab: int
) -> SavedPrompt:
    tokens, cache = np.fromfile(file, "<i8", n_tokens), np.fromfile(file, "<u2", n_numbers)
    is_complete = (len(tokens), len(cache)) == (n_tokens, n_numbers)
    if not is_complete or zlib.crc32(cache.data, zlib.crc32(tokens.data)) != crc:
        raise UnusableError("is damaged")
    if n_tokens and not 0 <= tokens.min() <= tokens.max() < n_vocab:
        raise UnusableError("is damaged")
    return SavedPrompt(tokens.tolist(), cache)


def _digest(model_id: str) -> bytes:
    return hashlib.sha256(model_id.encode()).digest()
