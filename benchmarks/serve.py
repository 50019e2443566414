"""Many clients at once against ``gguf-hub serve``: speed, losses, memory, how soon a slot is free.

    gguf-hub serve MODEL -np 64 --port 8080 &
    python benchmarks/serve.py http://127.0.0.1:8080 --pid $! --ratio 5
    python benchmarks/serve.py http://127.0.0.1:8080 --pid $! --seconds 120

Prints one table. Each client asks for texts of 64 tokens, one after another, every other streamed.
With ``--ratio N`` one client and many take turns N times, and the last lines say how many times the
tokens of one client many get: a second (medians), and for the same CPU time of the server. The
clients are this process: it takes as little time as it can, for it may share the server's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
import psutil

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_USAGE = re.compile(rb'"completion_tokens": ?(\d+)')


@dataclass
class Counts:
    """What clients got."""

    answers: int = 0
    tokens: int = 0
    lost: int = 0
    refused: int = 0
    problems: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Run:
    """Some clients for a while."""

    n_clients: int
    seconds: float
    counts: Counts
    cpu_s: float
    memory_bytes: int

    @property
    def tok_per_s(self) -> float:
        return self.counts.tokens / self.seconds

    @property
    def cpu_ms_per_token(self) -> float:
        return 1e3 * self.cpu_s / max(1, self.counts.tokens)


def request(number: int, n_tokens: int, host: str) -> bytes:
    """Return a request for a text; those with odd numbers stream."""
    body = {
        "max_tokens": n_tokens, "ignore_eos": True, "temperature": 0.8,
        "prompt": f"Once upon a time, number {number},",
    }  # fmt: skip
    if number % 2:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Return status and body of an answer; a streamed one as it was sent, in chunks."""
    head = await reader.readuntil(b"\r\n\r\n")
    status, length = int(head.split(b" ", 2)[1]), _LENGTH.search(head)
    if length:
        return status, await reader.readexactly(int(length[1]))
    body = bytearray()
    while not body.endswith(b"0\r\n\r\n"):
        data = await reader.read(1 << 16)
        if not data:
            raise EOFError("the stream ended early")
        body += data
    return status, bytes(body)


def count_answer(status: int, body: bytes, n_tokens: int, counts: Counts) -> None:
    """Count an answer; one that is not whole is lost."""
    if status == 429:
        counts.refused += 1
        return
    usage = _USAGE.findall(body)
    is_streamed = body.endswith(b"0\r\n\r\n")
    is_whole = status == 200 and (b"data: [DONE]" in body if is_streamed else True)
    if is_whole and usage and int(usage[-1]) == n_tokens:
        counts.answers += 1
        counts.tokens += n_tokens
    else:
        counts.lost += 1
        counts.problems.add(f"status {status}: {body[-200:]!r}")


async def client(url: str, first: int, step: int, n_tokens: int, end: float, into: Counts) -> None:
    """Ask for texts, one after another, on one connection, until it is time to end."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    reader, writer = await asyncio.open_connection(host, port, limit=1 << 22)
    number = first
    while time.monotonic() < end:
        writer.write(request(number, n_tokens, f"{host}:{port}"))
        try:
            status, body = await read_answer(reader)
        except (OSError, EOFError) as exc:
            into.lost += 1
            into.problems.add(repr(exc))
            break
        count_answer(status, body, n_tokens, into)
        if status == 429:
            await asyncio.sleep(0.1)
        number += step
    writer.close()


async def clients(
    url: str, n_clients: int, seconds: float, n_tokens: int = 64
) -> tuple[Counts, float]:
    """Let clients ask for a while; return what they got, and the seconds until the last answer."""
    counts, start = Counts(), time.monotonic()
    await asyncio.gather(
        *(client(url, i, n_clients, n_tokens, start + seconds, counts) for i in range(n_clients))
    )
    return counts, time.monotonic() - start


async def tokens_after_leaving(url: str) -> float:
    """Return how many texts were cancelled after a client had gone."""
    async with httpx.AsyncClient(base_url=url, timeout=120) as http:

        async def metrics() -> dict[str, float]:
            lines = (await http.get("/metrics")).text.splitlines()
            return {x.split()[0]: float(x.split()[1]) for x in lines if not x.startswith("#")}

        body = {"prompt": "Once", "max_tokens": 400, "stream": True, "ignore_eos": True}
        async with http.stream("POST", "/v1/completions", json=body) as reply:
            async for _ in reply.aiter_lines():
                break
        while (await metrics())["gguf_hub_slots_busy"]:
            await asyncio.sleep(0.001)
        return (await metrics())["gguf_hub_texts_cancelled_total"]


def measure(
    url: str, process: psutil.Process, n_clients: int, seconds: float, n_tokens: int
) -> Run:
    """Let clients ask; the CPU time is the server's."""

    def cpu_s() -> float:
        times = process.cpu_times()
        return times.user + times.system

    before = cpu_s()
    counts, duration_s = asyncio.run(clients(url, n_clients, seconds, n_tokens))
    for problem in sorted(counts.problems):
        print(problem)
    used = cpu_s() - before
    return Run(n_clients, duration_s, counts, used, process.memory_info().rss)


def print_table(runs: list[Run]) -> None:
    print("clients  seconds  answers  lost  refused  tok/s  CPU ms/token  MiB")
    for run in runs:
        c, mib = run.counts, run.memory_bytes / 2**20
        print(
            f"{run.n_clients:>7}  {run.seconds:>7.1f}  {c.answers:>7}  {c.lost:>4}  "
            f"{c.refused:>7}  {run.tok_per_s:>5.0f}  {run.cpu_ms_per_token:>12.3f}  {mib:>3.0f}"
        )


def print_ratio(runs: list[Run]) -> None:
    """Print how many times the tokens of one client many get."""
    many = max(run.n_clients for run in runs)
    by_clients = {n: [run for run in runs if run.n_clients == n] for n in (1, many)}
    one, all_ = (statistics.median(r.tok_per_s for r in by_clients[n]) for n in (1, many))
    print(f"{many} clients / one client, tok/s: {all_:.0f} / {one:.0f} = {all_ / one:.2f}")
    one, all_ = (statistics.median(r.cpu_ms_per_token for r in by_clients[n]) for n in (1, many))
    print(f"tokens for the same CPU time of the server: {one / all_:.2f} times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--pid", type=int, required=True, help="process of the server")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120, help="of all clients in all")
    parser.add_argument("--tokens", type=int, default=64, help="of each text")
    parser.add_argument("--ratio", type=int, default=0, metavar="N",
                        help="one client and many in turns, N times")  # fmt: skip
    options = parser.parse_args()
    try:
        process = psutil.Process(options.pid)
    except psutil.NoSuchProcess as exc:
        raise SystemExit(f"no process {options.pid}: `--pid` is the server's") from exc
    try:
        httpx.get(f"{options.url}/health").raise_for_status()
    except httpx.HTTPError as exc:
        raise SystemExit(f"no server at {options.url}: {exc}") from exc

    def run(n_clients: int, seconds: float) -> Run:
        return measure(options.url, process, n_clients, seconds, options.tokens)

    run(options.clients, 1)  # warms up
    share = options.seconds / (2 * options.ratio or 5)
    if options.ratio:
        runs = [run(n, share) for _ in range(options.ratio) for n in (1, options.clients)]
    else:
        runs = [run(n, t) for n, t in ((1, share), (options.clients, 2 * share),
                                       (options.clients, 2 * share))]  # fmt: skip
    print_table(runs)
    if options.ratio:
        print_ratio(runs)
    else:
        cancelled = asyncio.run(tokens_after_leaving(options.url))
        print(f"cancelled after a client had gone: {cancelled:.0f}")


if __name__ == "__main__":
    main()
