"""Speed of a model on this machine, and of the machine's memory under it.

Knows how to time; knows nothing of flags and tables.
"""

from gguf_hub.run.bench.bandwidth import read_bytes_per_s
from gguf_hub.run.bench.measure import Plan, Run, Speed, measure

__all__ = ["Plan", "Run", "Speed", "measure", "read_bytes_per_s"]
