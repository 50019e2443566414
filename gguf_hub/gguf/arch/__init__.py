"""Architectures: what their names tell, and what that and a file make of a model's graph."""

from gguf_hub.gguf.arch.architecture import Architecture, Router, States, Temperature, Windows
from gguf_hub.gguf.arch.families import ARCHITECTURES
from gguf_hub.gguf.arch.families.llama import LLAMA

__all__ = ["ARCHITECTURES", "LLAMA", "Architecture", "Router", "States", "Temperature", "Windows"]
