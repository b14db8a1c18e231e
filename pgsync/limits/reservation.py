"""Reservations: permits taken for a cost that is known only afterwards."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from pgsync.database.calls import Call, Row
from pgsync.errors import InvalidArgument
from pgsync.limits.calls import Grant, settle
from pgsync.limits.decision import Decision
from pgsync.limits.denials import Denials

__all__ = ["AsyncReservation", "Reservation"]

logger = logging.getLogger("pgsync.limits")


class _ReservationFace:
    """``decision`` is what the limiter answered, ``settled`` whether it has been settled here."""

    def __init__(self, grant: Grant, denials: Denials, run: Callable[[Call[bool]], Any]) -> None:
        assert grant.number is not None
        self.decision: Decision = grant.decision
        self.settled = False
        self._number = grant.number
        self._denials = denials
        self._run = run

    def _settling(self, cost: int) -> Call[bool]:
        if isinstance(cost, bool) or not isinstance(cost, int) or not 0 <= cost <= 2**31 - 1:
            raise InvalidArgument(f"cost must be a whole number, 0 or more, not {cost!r}")
        settled_before, self.settled = self.settled, True
        self._denials.forget(self.decision.key)
        call = settle(self._number, cost)

        def read(row: Row) -> bool:
            in_time = call.read(row)
            if not in_time and not settled_before:
                logger.warning(
                    "a reservation of %r had expired before it was settled with %d: it stands with"
                    " the %d permits that it took; give reserve() a longer ttl",
                    self.decision.key,
                    cost,
                    self.decision.cost,
                )
            return in_time

        return Call(call.statement, call.parameters, read)


class Reservation(_ReservationFace):
    """In a ``with``, an error cancels it, and otherwise it stands as it was taken or settled."""

    def settle(self, cost: int) -> bool:
        """Say what it cost in the end: what is over is given back, what is missing is taken too.

        That may be more than the limit has: who comes next has to wait. False where it was settled
        before, or has expired, which is logged: then it stands as it was taken.
        """
        return bool(self._run(self._settling(cost)))

    def cancel(self) -> bool:
        """Give all of it back; False as of :meth:`settle`."""
        return self.settle(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self.settled:
            self.settle(self.decision.cost if error is None else 0)


class AsyncReservation(_ReservationFace):
    """As :class:`Reservation`, awaited."""

    _run: Callable[[Call[bool]], Awaitable[bool]]

    async def settle(self, cost: int) -> bool:
        """As :meth:`Reservation.settle`."""
        return await self._run(self._settling(cost))

    async def cancel(self) -> bool:
        """As :meth:`Reservation.cancel`."""
        return await self.settle(0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self.settled:
            await self.settle(self.decision.cost if error is None else 0)
