"""Pages that stay fresh: server-sent events carry the changing part of a page again and again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

__all__ = ["LiveStreams", "wants_events"]

_SECONDS_BETWEEN = 2.0
# A stream ends by itself, and the browser asks for the next: so it cannot outlive a session for
# long, and a server that stops need not wait for it.
_ROUNDS = 15


def wants_events(request: Request) -> bool:
    """Whether the browser asks for a page's stream of events instead of the page."""
    return "text/event-stream" in request.headers.get("accept", "")


class LiveStreams:
    """Streams of one dashboard; over ``most`` at once are refused."""

    def __init__(self, most: int = 100) -> None:
        self._most = most
        self._open = 0

    def stream(self, render: Callable[[], Awaitable[str]]) -> Response:
        """What ``render`` gives, every two seconds while it differs from the last."""
        if self._open >= self._most:
            raise HTTPException(503, "too many pages are open; pause some of them")
        return StreamingResponse(
            self._events(render),
            media_type="text/event-stream",
            headers={"x-accel-buffering": "no"},  # nginx would collect them
        )

    async def _events(self, render: Callable[[], Awaitable[str]]) -> AsyncIterator[str]:
        self._open += 1
        try:
            yield "retry: 500\n\n"
            last = ""
            for _ in range(_ROUNDS):
                try:
                    text = await render()
                except Exception:  # noqa: BLE001 - the next round may do; the page says it is old
                    yield "event: stale\ndata:\n\n"
                else:
                    yield _event(text) if text != last else ": the same\n\n"
                    last = text
                await asyncio.sleep(_SECONDS_BETWEEN)
        finally:
            self._open -= 1


def _event(text: str) -> str:
    return "".join(f"data: {line}\n" for line in text.splitlines()) + "\n"
