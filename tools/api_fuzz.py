"""Send random requests to every route of the server, and to a router: no answer may be a 5xx.

    pip install schemathesis
    python tools/api_fuzz.py [--cases 10000]

The requests are schemathesis', made of the servers' OpenAPI descriptions; both serve tiny-mixtral
on loopback. A router whose models are named pulls and deletes nothing. Exits 1 if a server failed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "gguf_hub/data/tiny-mixtral.f16.gguf"


def fuzz(server: Any, folder: Path, n_cases: int) -> int:
    """Return schemathesis' exit status for a server on loopback."""
    description = server.server.config.app.openapi()
    n_operations = sum(map(len, description["paths"].values()))
    path = folder / "openapi.json"
    path.write_text(json.dumps(description))
    command = [
        shutil.which("schemathesis", path=str(Path(sys.executable).parent)) or "schemathesis",
        "run", str(path), "--url", server.url, "--checks", "not_a_server_error",
        "--max-examples", str(-(-n_cases // n_operations)), "--phases", "fuzzing",
        "--request-timeout", "60", "--continue-on-failure", "--suppress-health-check", "all",
    ]  # fmt: skip
    return subprocess.run(command, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000, help="requests to each server")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from tests.api.server.router.harness import RunningRouter
    from tests.api.server.running import Running

    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        copies = [Path(shutil.copy(MODEL, Path(scratch, f"{name}.gguf"))) for name in "ab"]
        single = Running(MODEL, stack, {}, n_ctx=512, name="tiny-mixtral")
        results = [fuzz(single, Path(scratch), options.cases)]
        results.append(fuzz(RunningRouter(stack, copies), Path(scratch), options.cases))
    return int(any(results))


if __name__ == "__main__":
    sys.exit(main())
