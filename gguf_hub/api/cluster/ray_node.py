"""Ray's processes of this machine: a child that runs ``ray start --block`` until it is ended."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run Ray; the first argument names the file that takes its messages."""
    log, *words = arguments
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    from ray.scripts.scripts import main as ray_main

    sys.argv = ["ray", "start", "--block", *words]
    ray_main()
    return 0
