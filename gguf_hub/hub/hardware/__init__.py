"""What this machine has and what of it this process may use, as data.

Deciding is not done here: ``fit`` does that with the numbers.
"""

from gguf_hub.hub.hardware.detect import Hardware, detect
from gguf_hub.hub.hardware.gpus import Gpu
from gguf_hub.hub.hardware.probe import Speeds, machine_key, measure, recall_speeds
from gguf_hub.hub.hardware.steady import steady_bytes

__all__ = [
    "Gpu",
    "Hardware",
    "Speeds",
    "detect",
    "machine_key",
    "measure",
    "recall_speeds",
    "steady_bytes",
]
