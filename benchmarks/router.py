"""Loads and unloads of several models behind one server: time, CPU time, memory, open files.

    python benchmarks/router.py A.gguf B.gguf --loads 200

Starts ``gguf-hub serve A B --models-max 1``, and asks one model after the other for four tokens;
each is unloaded before the next. Memory is that of the server and all of its processes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil


def rss_bytes(server: psutil.Process) -> int:
    return sum(each.memory_info().rss for each in [server, *server.children(recursive=True)])


def own_mb(process: psutil.Process) -> int:
    """Return memory that is the process's own (RssAnon)."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) // 1024


def load(http: httpx.Client, server: psutil.Process, name: str) -> tuple[float, float, int]:
    """Load and unload a model; return (seconds, CPU seconds, MB) of its process."""
    start_time = time.perf_counter()
    answer = http.post("/completion", json={"model": name, "prompt": "Once", "n_predict": 4})
    assert answer.json()["model"] == name, answer.text
    seconds = time.perf_counter() - start_time
    (child,) = server.children()
    cpu_s, mb = sum(child.cpu_times()[:2]), own_mb(child)
    http.post("/api/generate", json={"model": name, "keep_alive": 0})
    while server.children():
        time.sleep(0.02)
    return seconds, cpu_s, mb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs=2, type=Path)
    parser.add_argument("--loads", type=int, default=200)
    arguments = parser.parse_args()
    line = [sys.executable, "-m", "gguf_hub", "serve", *map(str, arguments.models)]
    options = ["--models-max", "1", "--port", "0"]
    with subprocess.Popen([*line, *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        http = httpx.Client(base_url=process.stdout.readline().strip(), timeout=600)
        server = psutil.Process(process.pid)
        names = [entry["id"] for entry in http.get("/v1/models").json()["data"]]
        before = 0
        for i in range(1, arguments.loads + 1):
            seconds, cpu_s, mb = load(http, server, names[i % 2])
            before = before or rss_bytes(server)
            if i == 1 or i % 20 == 0:
                print(
                    f"{i:4} loads: last one {seconds:.1f} s, {cpu_s:.2f} s of CPU time, {mb} MB; "
                    f"server {rss_bytes(server) / 1e6:.1f} MB, {server.num_fds()} files"
                )
        print(f"memory after all loads: {100 * rss_bytes(server) / before - 100:+.1f} %")
        process.terminate()


if __name__ == "__main__":
    main()
