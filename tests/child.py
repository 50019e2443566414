"""A child process that shows what it was given."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    print(json.dumps([str(Path.cwd()), dict(os.environ), sys.path]))
    return 0
