"""Speed of a model on this machine, and of the machine's memory under it.

Knows how to time; knows nothing of flags and tables.
"""

from gguf_hub.run.bench.bandwidth import read_bytes_per_s
from gguf_hub.run.bench.measure import Measurement, Plan, Speed, measure

__all__ = ["Measurement", "Plan", "Speed", "measure", "read_bytes_per_s"]
