"""Available memory without its small changes, so that a choice made by it does not flip.

What is available rises and falls by some hundred megabytes from minute to minute. The figure of the
last choice stands until today's differs from it by more than a band.
"""

from __future__ import annotations

from gguf_hub.machine_files import read_machine_file, write_machine_file

FILENAME = "memory.json"


def steady_bytes(key: str, available_bytes: int, band_bytes: int) -> int:
    """Return the memory to judge by, and remember it.

    Args:
        key: What the memory is of: a machine and its limits.
        available_bytes: Available now.
        band_bytes: Smaller differences from the last figure do not count.
    """
    known = read_machine_file(FILENAME)
    last = known.get(key)
    if isinstance(last, int) and abs(last - available_bytes) <= band_bytes:
        return last
    write_machine_file(FILENAME, known | {key: available_bytes})
    return available_bytes
