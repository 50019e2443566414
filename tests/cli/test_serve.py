"""``gguf-hub serve``, what the server's own tests do not see: the socket that it listens on."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gguf_hub.cli.serve import _listening
from gguf_hub.errors import GgufHubError


def test_answers_are_sent_without_waiting_for_acknowledgements() -> None:
    found: list[int] = []

    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served = writer.get_extra_info("socket")
            found.append(served.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with _listening(socket.AF_INET, "127.0.0.1", 0) as listener:
            server = await asyncio.start_server(answer, sock=listener)
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            await reader.read()
            writer.close()
            server.close()

    asyncio.run(main())
    assert found[0] != 0


def test_an_address_in_use_is_told() -> None:
    with (
        _listening(socket.AF_INET, "127.0.0.1", 0) as first,
        pytest.raises(GgufHubError, match=str(first.getsockname()[1])),
    ):
        first.listen()
        _listening(socket.AF_INET, "127.0.0.1", first.getsockname()[1])
