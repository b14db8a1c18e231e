"""Answers that no web framework would send: cut off, or no answer but a reset."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["WireProtocol", "reset", "truncate"]


class WireProtocol(H11Protocol):
    """uvicorn's own protocol, which also shows the connection to the request's handler."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember the connection in the state that each of its requests gets a copy of."""
        super().connection_made(transport)
        # By itself uvicorn logs each request as soon as the application logs anything.
        self.access_log = False
        self.app_state = {**self.app_state, "transport": transport}


async def reset(request: Request) -> None:
    """Close the connection at once with a TCP reset and without a byte."""
    transport = _transport(request)
    connection: socket.socket = transport.get_extra_info("socket")
    # A linger time of zero makes close() send a reset and not an orderly end.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    await _gone(request)


async def truncate(request: Request, status: int, body: bytes) -> None:
    """Send headers that promise all of ``body``, the first half of it, and close."""
    transport = _transport(request)
    head = (
        f"HTTP/1.1 {status} Cut\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    transport.write(head.encode() + body[: len(body) // 2])
    transport.close()
    await _gone(request)


def _transport(request: Request) -> Any:
    return request.state.transport


async def _gone(request: Request) -> None:
    """Wait until the server knows that the client is gone, or it would answer by itself."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
