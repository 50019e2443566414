"""Pick, download, verify and run GGUF models.

Importing the package is light on purpose: no numba, no huggingface_hub, no yaml. Each of them is
imported by the one room that owns it, when that room is used.
"""

__version__ = "0.1.0"
