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
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MODEL = Path(__file__).resolve().parents[1] / "gguf_hub/data/tiny-mixtral.f16.gguf"


@contextmanager
def serving(models: list[Path]) -> Iterator[str]:
    """Serve models on loopback within the block; yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gguf_hub", "serve", *map(str, models), "-c", "512"]
    process = subprocess.Popen([*command, "--port", str(port)], stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def description(url: str, timeout_s: float = 120) -> dict[str, dict[str, object]]:
    """Return a server's OpenAPI description, once it answers."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(f"{url}/openapi.json") as reply:
                found: dict[str, dict[str, object]] = json.load(reply)
                return found
        except urllib.error.URLError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def fuzz(url: str, n_cases: int) -> int:
    """Return schemathesis' exit status."""
    n_operations = sum(len(path) for path in description(url)["paths"].values())  # type: ignore[arg-type]
    command = [
        shutil.which("schemathesis", path=str(Path(sys.executable).parent)) or "schemathesis",
        "run", f"{url}/openapi.json", "--checks", "not_a_server_error", "--phases", "fuzzing",
        "--max-examples", str(-(-n_cases // n_operations)), "--request-timeout", "60",
        "--continue-on-failure", "--suppress-health-check", "all",
    ]  # fmt: skip
    return subprocess.run(command, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000, help="requests to each server")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        copies = [Path(shutil.copy(MODEL, Path(scratch, f"{name}.gguf"))) for name in "ab"]
        for models in ([MODEL], copies):
            with serving(models) as url:
                results.append(fuzz(url, options.cases))
    return int(any(results))


if __name__ == "__main__":
    sys.exit(main())
