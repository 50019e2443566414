"""Files of Ollama's own converter, read under llama.cpp's names: the one place that knows both.

Ollama's library has models that its own converter wrote for its own engine: what llama.cpp calls
``gpt-oss`` is ``gptoss`` there, keys that llama.cpp needs are missing, encoders of images lie in
the same file. ``dialects`` has a row for each such architecture, ``draft`` applies it, and
``read_header`` asks, so that everything else sees llama.cpp's names alone.

No file of llama.cpp's is read otherwise than it stands there: its architecture is none of those
that are renamed, and under a name that both have nothing is done without a mark that llama.cpp's
converter never writes, such as ``gemma3.vision.block_count``. A key that is neither llama.cpp's
nor in the table stays as it is, and whoever judges the file names it.

Source: Ollama at fb30760: llama/compat/llama-ollama-compat.cpp, which says what published files
hold, and convert/convert_*.go; model/models/*/model*.go of earlier versions, for what the engine
takes where a file is silent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gguf_hub.gguf.format import Field
from gguf_hub.gguf.hparams import architecture
from gguf_hub.gguf.ollama.dialects import DIALECTS
from gguf_hub.gguf.ollama.draft import Draft, Shape, UnclearError


@dataclass(frozen=True)
class Reading:
    """A header under llama.cpp's names.

    Attributes:
        fields: Its metadata.
        names: Tensor -> its name, of those that are called otherwise.
    """

    fields: Mapping[str, Field]
    names: Mapping[str, str]


def as_llama_cpp(fields: Mapping[str, Field], shapes: Mapping[str, Shape]) -> Reading | None:
    """Return a header under llama.cpp's names; None where it stands so already.

    Also None where the sources do not tell how the file is meant, see ``unclear``.

    Args:
        fields: Metadata of a whole model.
        shapes: Tensor -> its shape, as the file has it.
    """
    try:
        return _read(fields, shapes)
    except UnclearError:
        return None


def unclear(fields: Mapping[str, Field], shapes: Mapping[str, Shape]) -> str:
    """Return why a file of Ollama's converter is not read; empty for none, and where it is."""
    try:
        _read(fields, shapes)
    except UnclearError as error:
        return str(error)
    return ""


def _read(fields: Mapping[str, Field], shapes: Mapping[str, Shape]) -> Reading | None:
    dialect = DIALECTS.get(architecture(fields))
    if dialect is None:
        return None
    draft = Draft(fields, shapes, dialect)
    if not draft.is_marked:
        return None
    draft.translate()
    if draft.fields == dict(fields) and not draft.names:
        return None
    return Reading(draft.fields, draft.names)
