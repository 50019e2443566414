"""From a Hugging Face checkpoint of Llama, Mistral or Mixtral to a GGUF file.

Knows the folder (``checkpoint``), what ``config.json`` says (``hparams``), which tensor becomes
which (``tensors``), the vocabulary (``vocabulary``) and how floats become bytes (``encode``).
Reading needs the extra ``gguf-hub[convert]``: safetensors and sentencepiece, no compiler.
"""

from __future__ import annotations

from gguf_hub.run.convert.conversion import Conversion, OutType, plan_conversion

__all__ = ["Conversion", "OutType", "plan_conversion"]
