"""``python -m llama_cpp.server`` says which command to use."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.exit(
        "error: llama-cpp-python's server is not there\n\n"
        "hint: `gguf-hub serve MODEL --host HOST --port PORT` has the same routes and more; "
        "see docs/serving.md"
    )
