"""Many clients at once against ``gguf-hub serve``: speed, losses, memory, how soon a slot is free.

    gguf-hub serve MODEL -np 8 --port 8080 &
    python benchmarks/serve.py http://127.0.0.1:8080 --pid $! --clients 64 --seconds 120

Prints one table; CPU time is the server's. Every client asks for texts of 64 tokens, one after
another, every other streamed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from typing import Any

import httpx
import psutil

BODY = {"max_tokens": 64, "ignore_eos": True, "temperature": 0.8}


async def one(http: httpx.AsyncClient, number: int, counts: dict[str, int]) -> None:
    """Ask for one text and count what comes."""
    body = {**BODY, "prompt": f"Once upon a time, number {number},", "stream": number % 2 == 1}
    body["stream_options"] = {"include_usage": True}
    try:
        reply = await http.post("/v1/completions", json=body)
        if reply.status_code == 429:
            counts["told to wait"] += 1
            await asyncio.sleep(0.1)
            return
        reply.raise_for_status()
        if body["stream"]:
            lines = [line for line in reply.text.split("\n\n") if line]
            assert lines[-1] == "data: [DONE]", lines[-1]
            usage = json.loads(lines[-2][6:])["usage"]
        else:
            usage = reply.json()["usage"]
        assert usage["completion_tokens"] == 64, usage
        counts["answers"] += 1
        counts["tokens"] += usage["completion_tokens"]
    except Exception as exc:
        counts["lost"] += 1
        print(type(exc).__name__, exc)


async def clients(url: str, n_clients: int, seconds: float) -> dict[str, float]:
    """Let clients ask for a while."""
    counts = {"answers": 0, "tokens": 0, "lost": 0, "told to wait": 0}
    end = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=n_clients)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:

        async def client(first: int) -> None:
            number = first
            while time.monotonic() < end:
                await one(http, number, counts)
                number += n_clients

        began = time.monotonic()
        await asyncio.gather(*(client(i) for i in range(n_clients)))
        took = time.monotonic() - began
    return {**counts, "tok/s": counts["tokens"] / took}


async def gone(url: str) -> float:
    """Return how many tokens more were computed after a client had gone, at most."""
    async with httpx.AsyncClient(base_url=url, timeout=120) as http:

        async def metrics() -> dict[str, float]:
            lines = (await http.get("/metrics")).text.splitlines()
            return {x.split()[0]: float(x.split()[1]) for x in lines if not x.startswith("#")}

        body = {**BODY, "prompt": "Once", "max_tokens": 400, "stream": True}
        async with http.stream("POST", "/v1/completions", json=body) as reply:
            async for _ in reply.aiter_lines():
                break
        while (await metrics())["gguf_hub_slots_busy"]:
            await asyncio.sleep(0.001)
        return (await metrics())["gguf_hub_texts_cancelled_total"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120)
    options = parser.parse_args()
    process = psutil.Process(options.pid)
    try:
        httpx.get(f"{options.url}/health").raise_for_status()
    except httpx.HTTPError as exc:
        raise SystemExit(f"no server at {options.url}: {exc}") from exc

    def cpu_s() -> float:
        times = process.cpu_times()
        return times.user + times.system

    rows: list[tuple[Any, ...]] = []
    asyncio.run(clients(options.url, 1, 3))  # warm
    for n_clients, seconds in ((1, options.seconds / 4), (options.clients, options.seconds / 2),
                               (options.clients, options.seconds / 2)):  # fmt: skip
        began = cpu_s()
        found = asyncio.run(clients(options.url, n_clients, seconds))
        cost = 1e3 * (cpu_s() - began) / max(1, found["tokens"])
        counted = (found["answers"], found["lost"], found["told to wait"])
        mib = process.memory_info().rss / 2**20
        rows.append(
            (n_clients, seconds, *counted, f"{found['tok/s']:.0f}", f"{cost:.3f}", f"{mib:.0f}")
        )
    cancelled = asyncio.run(gone(options.url))
    print("clients  seconds  answers  lost  told to wait  tok/s  CPU s/1000 tok  MiB")
    for row in rows:
        print("{:>7}  {:>7.0f}  {:>7}  {:>4}  {:>12}  {:>5}  {:>14}  {:>3}".format(*row))
    print(f"cancelled after a client had gone: {cancelled:.0f}")


if __name__ == "__main__":
    main()
