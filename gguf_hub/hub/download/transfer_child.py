"""Runs hf_transfer in a process of its own, which ``external`` starts.

hf_transfer stops every other thread of its process until it is done. What to do comes as JSON on
stdin, because arguments can be read by anybody on the machine; stdout has the size of each chunk.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] = ()) -> int:
    """Fetch one file; return 0, or 1 when hf_transfer gave up."""
    import hf_transfer

    def came(n_bytes: int) -> None:
        """Report bytes that have come, a line each."""
        sys.stdout.write(f"{n_bytes}\n")
        sys.stdout.flush()

    try:
        hf_transfer.download(**json.load(sys.stdin), callback=came)
    except Exception:
        return 1  # its words quote the signed link
    return 0
