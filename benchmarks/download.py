"""Downloads against aria2c and hf, and the promises of the engine, measured on loopback.

    python benchmarks/download.py speed --size 4GB --rounds 5      # needs nginx and aria2c
    python benchmarks/download.py slow --size 1GB --rounds 3       # 20 ms, 20 MB/s a connection
    python benchmarks/download.py kill --size 1GB --kills 200
    python benchmarks/download.py limit --rate 10MB/s --seconds 30
    python benchmarks/download.py repair --size 2GB

A small hub answers the API and redirects each file to nginx, as the real one redirects to its file
hosts. For `slow` both lie behind a relay (benchmarks/relay.py, a process of its own) that hands
bytes on 10 ms later in either direction, at 20 MB/s for every connection.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from gguf_hub.hub.download.segments import Segments
from gguf_hub.units import parse_size

DELAY_MS = 10.0  # in each direction
MB_PER_S = 20.0  # of a connection
REPO, NAME, COMMIT = "bench/model", "model.gguf", "c" * 40
NGINX = """
worker_processes 1;
daemon on;
pid {root}/nginx.pid;
error_log {root}/error.log;
events {{ worker_connections 256; }}
http {{
  log_format count '$status $body_bytes_sent';
  access_log {root}/access.log count;
  sendfile on; tcp_nopush on; etag on; keepalive_requests 100000;
  client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;
  uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;
  server {{ listen 127.0.0.1:{port}; root {root}/www; }}
}}
"""


class Bench:
    """A file, nginx that serves it, and a hub that redirects there."""

    def __init__(self, root: Path, size_bytes: int) -> None:
        self.root, self.size_bytes = root, size_bytes
        (root / "www").mkdir()
        self.file = root / "www" / NAME
        self.sha256 = _make_file(self.file, size_bytes)
        port = _free_port()
        (root / "nginx.conf").write_text(NGINX.format(root=root, port=port))
        subprocess.run(["nginx", "-c", root / "nginx.conf"], check=True)
        self.port = port
        self.hub = _Hub(self)
        self.hub_port = self.hub.server_port
        self._relay: subprocess.Popen[str] | None = None
        threading.Thread(target=self.hub.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where the file is."""
        return f"http://127.0.0.1:{self.port}/{NAME}"

    def move_away(self, delay_ms: float, mb_per_s: float) -> None:
        """Put a relay before the hub and nginx."""
        line = [sys.executable, str(Path(__file__).with_name("relay.py"))]
        line += [f"--delay-ms={delay_ms}", f"--mb-per-s={mb_per_s}"]
        ports = [str(self.port), str(self.hub_port)]
        self._relay = subprocess.Popen([*line, *ports], stdout=subprocess.PIPE, text=True)
        assert self._relay.stdout
        self.port, self.hub_port = json.loads(self._relay.stdout.readline())

    def close(self) -> None:
        if self._relay:
            self._relay.kill()
            self._relay.wait()
        self.hub.shutdown()
        pid = int((self.root / "nginx.pid").read_text())
        os.kill(pid, 15)

    def sent_bytes(self) -> int:
        """Bytes of bodies that nginx has sent since the start."""
        time.sleep(0.3)
        lines = (self.root / "access.log").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines)

    def forget(self) -> None:
        """Begin counting anew."""
        os.truncate(self.root / "access.log", 0)

    def environment(self) -> dict[str, str]:
        home = str(self.root / "home")
        origin = f"http://127.0.0.1:{self.hub_port}"
        own = {"HF_ENDPOINT": origin, "HF_HOME": home, "GGUF_HUB_HOME": home}
        quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
        return os.environ | own | quiet

    def download(self, target: Path, *options: str) -> list[str]:
        line = [sys.executable, "-m", "gguf_hub", "download", REPO, NAME, "-q"]
        return [*line, "--local-dir", str(target), *options]


class _Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        bench = self.server.bench
        lfs = {"oid": bench.sha256, "size": bench.size_bytes, "pointerSize": 134}
        entry = {"type": "file", "path": NAME, "size": bench.size_bytes, "oid": "0" * 40}
        if "/tree/" in self.path:
            self._answer(200, {}, [entry | {"lfs": lfs}])
        elif self.path.startswith("/api/models/"):
            info = {"id": REPO, "sha": COMMIT, "siblings": [{"rfilename": NAME}], "tags": []}
            self._answer(200, {}, info)
        elif "/resolve/" in self.path:
            headers = {
                "Location": bench.url,
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{bench.sha256}"',
                "X-Linked-Size": str(bench.size_bytes),
            }
            self._answer(302, headers, None)
        else:
            self._answer(404, {}, None)

    do_HEAD = do_GET

    def _answer(self, status: int, headers: dict[str, str], data: object) -> None:
        body = b"" if data is None else json.dumps(data).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _make_file(path: Path, size_bytes: int) -> str:
    start = b"GGUF" + struct.pack("<IQQ", 3, 0, 0)  # as little as `verify` takes for sound
    digest = hashlib.sha256(start)
    with path.open("wb") as file:
        size_bytes -= file.write(start)
        while size_bytes:
            chunk = os.urandom(min(size_bytes, 1 << 24))
            file.write(chunk)
            digest.update(chunk)
            size_bytes -= len(chunk)
    return digest.hexdigest()


def _timed(line: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    subprocess.run(line, env=env, check=True, stdout=subprocess.DEVNULL)
    wall_s = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _peak_mb(line: list[str], env: dict[str, str]) -> float:
    code = (
        "import resource,subprocess,sys;subprocess.run(sys.argv[1:],check=True,stdout=2);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *line], env=env, check=True, capture_output=True, text=True
    )
    return int(done.stdout) / 1024


def speed(bench: Bench, rounds: int) -> None:
    """Wall time with the check of the whole file, alternating."""
    out = bench.root / "out"
    hf = f"hf download {REPO} {NAME} --local-dir {out} --quiet && sha256sum {out}/{NAME}"
    aria2c = ["aria2c", "-q", "-x8", "-s8", "-k1M", f"--checksum=sha-256={bench.sha256}"]
    lines = {
        "gguf-hub": bench.download(out),
        "aria2c -x8 --checksum": [*aria2c, "-d", str(out), bench.url],
        "hf download; sha256sum": ["sh", "-c", hf],
    }
    walls = _alternate(bench, lines, rounds)
    _report(bench, walls, rounds)
    for name in list(lines)[1:]:
        ratio = _median_s(walls["gguf-hub"]) / _median_s(walls[name])
        print(f"gguf-hub takes {ratio:.2f}x the time of `{name}`")
    print(f"gguf-hub: at most {_peak_mb(lines['gguf-hub'], bench.environment()):.0f} MB of memory")


def slow(bench: Bench, rounds: int) -> None:
    """The same far away, against `hf download` as it is, which checks nothing."""
    bench.move_away(DELAY_MS, MB_PER_S)
    rates = [_plain_mb_per_s(bench, n) for n in (1, 8, 12)]
    told = ", ".join(f"{rate:.0f} MB/s over {n}" for n, rate in zip((1, 8, 12), rates, strict=True))
    print(f"{2 * DELAY_MS:.0f} ms away, {MB_PER_S:.0f} MB/s a connection; plain ones bring {told}")
    out = bench.root / "out"
    hf = ["hf", "download", REPO, NAME, "--local-dir", str(out), "--quiet"]
    walls = _alternate(bench, {"gguf-hub": bench.download(out), "hf download": hf}, rounds)
    _report(bench, walls, rounds)
    ratio = _median_s(walls["hf download"]) / _median_s(walls["gguf-hub"])
    print(f"gguf-hub is {ratio:.2f}x as fast as `hf download`")


Figures = list[tuple[float, float]]


def _alternate(bench: Bench, lines: dict[str, list[str]], rounds: int) -> dict[str, Figures]:
    """Wall and CPU seconds of each command, one after the other in every round."""
    walls: dict[str, Figures] = {name: [] for name in lines}
    for _ in range(rounds):
        for name, line in lines.items():
            walls[name].append(_timed(line, bench.environment()))
            shutil.rmtree(bench.root / "out")
            shutil.rmtree(bench.root / "home", ignore_errors=True)
    return walls


def _median_s(figures: Figures) -> float:
    return statistics.median(wall_s for wall_s, _ in figures)


def _report(bench: Bench, walls: dict[str, Figures], rounds: int) -> None:
    gb = bench.size_bytes / 1e9
    print(f"{gb:.2f} GB, median of {rounds} (least to most); load now {os.getloadavg()[0]:.1f}")
    for name, figures in walls.items():
        wall_s, cpu_s = (statistics.median(column) for column in zip(*figures, strict=True))
        least, most = min(f[0] for f in figures), max(f[0] for f in figures)
        print(
            f"{name:24} {wall_s:6.2f} s ({least:.2f} to {most:.2f})  {gb * 1e3 / wall_s:6.0f} MB/s"
            f"  {cpu_s / gb:5.2f} CPU s/GB"
        )


def _plain_mb_per_s(bench: Bench, n_connections: int, seconds: float = 2.0) -> float:
    """What plain sockets get: were it less than the server allows, the relay would be the limit."""
    counts = [0] * n_connections

    def read(k: int) -> None:
        buffer = bytearray(1 << 20)
        with socket.create_connection(("127.0.0.1", bench.port)) as connection:
            connection.sendall(f"GET /{NAME} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            while time.monotonic() < until and (n := connection.recv_into(buffer)):
                counts[k] += n

    start = time.monotonic()
    until = start + seconds
    threads = [threading.Thread(target=read, args=(k,)) for k in range(n_connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / 1e6 / (time.monotonic() - start)


def _wait_for_begin(child: subprocess.Popen[bytes], out: Path) -> None:
    """Wait until a download has opened its journal: a new one each time."""
    seen = {path.stat().st_ino for path in out.rglob("*.journal")}
    while child.poll() is None:
        if {path.stat().st_ino for path in out.rglob("*.journal")} - seen:
            return
        time.sleep(0.02)


def kill(bench: Bench, kills: int) -> None:
    """End the download by SIGKILL at random points; each next one goes on."""
    env, connections = bench.environment(), 8
    segment_bytes = Segments.of_size(bench.size_bytes).segment_bytes
    rng, n, n_whole, wrong = random.Random(0), 0, 0, 0
    out, rounds, worst = bench.root / "out", 0, 0.0
    whole_s = _timed(bench.download(out), env)[0]
    shutil.rmtree(out)
    lost = []
    while n < kills:
        bench.forget()
        rounds += 1
        here = 0
        while True:
            child = subprocess.Popen(bench.download(out), env=env, stdout=subprocess.DEVNULL)
            try:
                _wait_for_begin(child, out)
                child.wait(rng.uniform(0.0, whole_s) if n < kills else None)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                n, here = n + 1, here + 1
                final = out / NAME
                wrong += final.exists() and final.stat().st_size != bench.size_bytes
                continue
            break
        assert child.returncode == 0
        n_whole += hashlib.sha256((out / NAME).read_bytes()).hexdigest() == bench.sha256
        extra = bench.sent_bytes() - bench.size_bytes
        lost.append(extra)
        if here:
            worst = max(worst, extra / (here * connections * segment_bytes))
        shutil.rmtree(out)
        shutil.rmtree(bench.root / "home", ignore_errors=True)
    print(
        f"{n} kills in {rounds} downloads of {bench.size_bytes:,} bytes: {n_whole} of {rounds} "
        f"whole, {wrong} times something else under the final name\n"
        f"fetched beyond the size: {sum(lost):,} bytes; allowed "
        f"{n * connections * segment_bytes:,} (kills x {connections} connections x "
        f"{segment_bytes:,}); worst download {worst:.2f} of it"
    )


def limit(bench: Bench, rate: str, seconds: float) -> None:
    """Keep to a rate; measured by what is written, and by what the server sent."""
    out, per_s = bench.root / "out", parse_size(rate.removesuffix("/s"))
    line = bench.download(out, "--limit-rate", rate)
    child = subprocess.Popen(line, env=bench.environment(), stdout=subprocess.DEVNULL)
    _wait_for_begin(child, out)
    start = time.monotonic()
    while child.poll() is None and not (out / NAME).exists():
        time.sleep(0.02)
    wall_s = time.monotonic() - start
    child.wait()
    print(
        f"{bench.size_bytes:,} bytes at {rate} in {wall_s:.2f} s from the journal's first line "
        f"to the file's name, hash included: "
        f"{bench.size_bytes / wall_s / per_s:.3f} of the rate"
    )


def repair(bench: Bench) -> None:
    """Flip three bytes of a finished file and have it repaired."""
    out, env = bench.root / "out", bench.environment()
    subprocess.run(bench.download(out), env=env, check=True, stdout=subprocess.DEVNULL)
    path = out / NAME
    with path.open("r+b") as file:
        for at in (5, bench.size_bytes // 2, bench.size_bytes - 1):
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1]))
    bench.forget()
    for options in ([], ["--repair"], []):
        line = [sys.executable, "-m", "gguf_hub", "verify", str(path), *options]
        done = subprocess.run(line, env=env, capture_output=True, text=True)
        print(f"$ verify {' '.join(options)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    is_whole = hashlib.sha256(path.read_bytes()).hexdigest() == bench.sha256
    print(f"{bench.sent_bytes():,} bytes fetched; the file is {'' if is_whole else 'NOT '}whole")


@contextlib.contextmanager
def _bench(folder: str | None, size_bytes: int) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(dir=folder) as root:
        bench = Bench(Path(root), size_bytes)
        Path(root).chmod(0o755)
        try:
            yield bench
        finally:
            bench.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["speed", "slow", "kill", "limit", "repair"])
    parser.add_argument("--size", default="1GB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--rate", default="10MB/s")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--folder", help="where files lie; the temporary folder by default")
    args = parser.parse_args()
    size_bytes = parse_size(args.size)
    if args.what == "limit":
        size_bytes = int(parse_size(args.rate.removesuffix("/s")) * args.seconds)
    with _bench(args.folder, size_bytes) as bench:
        if args.what in ("speed", "slow"):
            (speed if args.what == "speed" else slow)(bench, args.rounds)
        elif args.what == "kill":
            kill(bench, args.kills)
        elif args.what == "limit":
            limit(bench, args.rate, args.seconds)
        else:
            repair(bench)


if __name__ == "__main__":
    main()
