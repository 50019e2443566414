"""What this machine has and what of it this process may use, as data.

Deciding is not done here: ``fit`` does that with the numbers.
"""

from gguf_hub.hardware.detect import Hardware, available_ram_bytes, detect, usable_threads
from gguf_hub.hardware.gpus import Gpu

__all__ = ["Gpu", "Hardware", "available_ram_bytes", "detect", "usable_threads"]
