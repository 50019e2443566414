"""A long way to a server on this machine: every byte arrives some milliseconds later.

    python benchmarks/relay.py --delay-ms 10 --mb-per-s 20 8080 8081

Listens on a free port for each port that is named, prints them as a JSON list, and hands on what
comes after the delay, in either direction: a round trip takes two delays, and so does making a
connection. What a server sends comes at a rate, the same for every connection; nginx's own limit
lets the first second of each request come at once. For machines whose kernel has no netem.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
from collections import deque

HELD_BYTES = 1 << 20  # for each direction; 20 MB/s over 10 ms are 0.2 MB
READ_BYTES = 1 << 16


class End(asyncio.BufferedProtocol):
    """One end of a connection: what comes here is written to the other end, later."""

    def __init__(self, delay_s: float, bytes_per_s: float) -> None:
        self.delay_s = delay_s
        self.bytes_per_s = bytes_per_s
        self.other: End | None = None
        self.transport: asyncio.Transport | None = None
        self.free_at_s = 0.0
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._held: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._is_scheduled = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._hold(bytes(self._buffer[:nbytes]))

    def eof_received(self) -> bool:
        self._hold(b"")
        return True  # the other direction may go on

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other and self.other.transport and exc:
            self.other.transport.abort()

    def resume_writing(self) -> None:
        """Take more of the other end: what it sent before has been read here."""
        if self.other:
            self.other._breathe()

    def _hold(self, data: bytes) -> None:
        now_s = asyncio.get_running_loop().time()
        self.free_at_s = max(now_s, self.free_at_s) + len(data) / self.bytes_per_s
        self._held.append((self.free_at_s + self.delay_s, data))
        self._held_bytes += len(data)
        if self._held_bytes > HELD_BYTES and self.transport:
            self.transport.pause_reading()
        self._schedule()

    def _schedule(self) -> None:
        if self._held and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_at(self._held[0][0], self._hand_on)

    def _hand_on(self) -> None:
        self._is_scheduled = False
        now_s = asyncio.get_running_loop().time()
        aim = self.other.transport if self.other else None
        while self._held and self._held[0][0] <= now_s + 0.0005:
            _, data = self._held.popleft()
            self._held_bytes -= len(data)
            if aim is None or aim.is_closing():
                continue
            if data:
                aim.write(data)
            else:
                with contextlib.suppress(OSError):  # the other end went by itself
                    aim.write_eof()
        self._breathe()
        self._schedule()

    def _breathe(self) -> None:
        """Read on, unless much is held here or the other end takes nothing."""
        aim = self.other.transport if self.other else None
        is_full = self._held_bytes > HELD_BYTES // 2
        is_full = is_full or (aim is not None and aim.get_write_buffer_size() > HELD_BYTES)
        if self.transport and not self.transport.is_closing() and not is_full:
            self.transport.resume_reading()


async def serve(target: int, delay_s: float, bytes_per_s: float) -> asyncio.Server:
    """Listen for connections to a port of this machine."""
    loop = asyncio.get_running_loop()

    async def connect(near: End) -> None:
        _, far = await loop.create_connection(
            lambda: End(delay_s, bytes_per_s), "127.0.0.1", target
        )
        near.other, far.other = far, near
        assert near.transport
        near.transport.resume_reading()

    class Near(End):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            # connecting is a round trip too, of which the kernel of this machine has spared us
            self.free_at_s = loop.time() + 2 * delay_s
            transport.pause_reading()  # type: ignore[attr-defined]
            loop.create_task(connect(self))  # noqa: RUF006 - it lives as long as the loop

    return await loop.create_server(
        lambda: Near(delay_s, float("inf")), "127.0.0.1", 0, backlog=128
    )


async def run(targets: list[int], delay_s: float, bytes_per_s: float) -> None:
    servers = [await serve(target, delay_s, bytes_per_s) for target in targets]
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", type=int, nargs="+", metavar="PORT")
    parser.add_argument("--delay-ms", type=float, default=10.0, help="in each direction")
    parser.add_argument("--mb-per-s", type=float, default=float("inf"), help="of a connection")
    args = parser.parse_args()
    asyncio.run(run(args.targets, args.delay_ms / 1000, args.mb_per_s * 1e6))


if __name__ == "__main__":
    main()
