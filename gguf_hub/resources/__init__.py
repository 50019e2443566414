"""What this process may use of the machine right now: CPUs and memory, within all limits.

``run`` decides by it how to compute, ``hub.hardware`` shows it and ``hub.fit`` judges by it.
"""

from gguf_hub.resources.cpus import limit_threads, usable_threads
from gguf_hub.resources.memory import available_ram_bytes

__all__ = ["available_ram_bytes", "limit_threads", "usable_threads"]
