"""Pages that stay fresh: server-sent events carry the changing part of a page again and again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

__all__ = ["EVERY", "LiveStreams", "seconds_wanted", "wants_events"]

EVERY = (2, 5, 10, 30, 60)
"""The seconds between two looks that a page offers."""
# A stream ends by itself, and the browser asks for the next: so it cannot outlive a session for
# long, and a server that stops need not wait for it.
_SECONDS = 30
_MOST_STREAMS = 100


def wants_events(request: Request) -> bool:
    """Whether the browser asks for a page's stream of events instead of the page."""
    return "text/event-stream" in request.headers.get("accept", "")


def seconds_wanted(request: Request) -> int:
    """How often a page is to be looked at again: the least that is offered, unless it asks."""
    given = request.query_params.get("every", "")
    return int(given) if given in map(str, EVERY) else EVERY[0]


class LiveStreams:
    """Streams of one dashboard; over a hundred at once are refused."""

    def __init__(self) -> None:
        self._open = 0

    def stream(self, render: Callable[[], Awaitable[str]], every: int) -> Response:
        """What ``render`` gives, every so many seconds while it differs from the last."""
        if self._open >= _MOST_STREAMS:
            raise HTTPException(503, "too many pages are open; pause some of them")
        return StreamingResponse(
            self._events(render, every),
            media_type="text/event-stream",
            headers={"x-accel-buffering": "no"},  # nginx would collect them
        )

    async def _events(self, render: Callable[[], Awaitable[str]], every: int) -> AsyncIterator[str]:
        self._open += 1
        try:
            yield "retry: 500\n\n"
            last = ""
            for _ in range(max(1, _SECONDS // every)):
                try:
                    text = await render()
                except Exception:  # noqa: BLE001 - the next round may do; the page says it is old
                    yield "event: stale\ndata:\n\n"
                else:
                    yield _event(text) if text != last else ": the same\n\n"
                    last = text
                await asyncio.sleep(every)
        finally:
            self._open -= 1


def _event(text: str) -> str:
    return "".join(f"data: {line}\n" for line in text.splitlines()) + "\n"
