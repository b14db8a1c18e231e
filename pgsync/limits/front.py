"""What a coordinator offers about limits, once for each face."""

from __future__ import annotations

from typing import Unpack

from pgsync.database.pool import AsyncDatabase, Database
from pgsync.durations import Duration, to_timedelta
from pgsync.limits import calls
from pgsync.limits.calls import LimitSetting, LimitState
from pgsync.limits.declared import Limit
from pgsync.limits.exchange import AsyncLimitExchange, LimitExchange
from pgsync.limits.limiter import AsyncLimiter, Limiter
from pgsync.limits.options import LimiterOptions, declare_limiter

__all__ = ["AsyncLimits", "Limits"]


class Limits:
    """The limits of a blocking coordinator."""

    database: Database
    limit_exchange: LimitExchange

    def limiter(self, name: str, *limits: Limit, **options: Unpack[LimiterOptions]) -> Limiter:
        """A rate limiter whose keys all processes on this database share.

        See :class:`LimiterOptions`. Several limits are taken all or none.
        """
        return Limiter(self.limit_exchange, declare_limiter(name, limits, options))

    def set_limit(
        self,
        key: str,
        max: int,
        *,
        per: Duration,
        burst: int | None = None,
        by: str | None = None,
        why: str | None = None,
    ) -> None:
        """Set a limit for one key (``name:key``), in place of what limiters state for that window.

        It holds from the next decision on, where a denial is not remembered still (a second).
        Written to the audit trail; ``by`` is the database's user unless it is given.
        """
        window = to_timedelta(per, "per")
        self.database.run(calls.set_limit(key, max, window, burst, by, why))
        self.limit_exchange.denials.forget(key)

    def unset_limit(self, key: str, *, per: Duration, by: str | None = None) -> bool:
        """Let the limiters' own limit hold again; False where none was set."""
        window = to_timedelta(per, "per")
        unset = self.database.run(calls.unset_limit(key, window, by))
        self.limit_exchange.denials.forget(key)
        return unset

    def list_set_limits(self) -> list[LimitSetting]:
        """The limits that are set for single keys."""
        return self.database.run(calls.list_settings())

    def explain_limit(self, key: str) -> list[LimitState]:
        """Each limit of a key (``name:key``) as it stands: first what binds, and until when."""
        return self.database.run(calls.states_of(key))


class AsyncLimits:
    """The limits of an asyncio coordinator."""

    database: AsyncDatabase
    limit_exchange: AsyncLimitExchange

    def limiter(self, name: str, *limits: Limit, **options: Unpack[LimiterOptions]) -> AsyncLimiter:
        """As :meth:`Limits.limiter`."""
        return AsyncLimiter(self.limit_exchange, declare_limiter(name, limits, options))

    async def set_limit(
        self,
        key: str,
        max: int,
        *,
        per: Duration,
        burst: int | None = None,
        by: str | None = None,
        why: str | None = None,
    ) -> None:
        """As :meth:`Limits.set_limit`."""
        window = to_timedelta(per, "per")
        call = calls.set_limit(key, max, window, burst, by, why)
        await self.database.run(call)
        self.limit_exchange.denials.forget(key)

    async def unset_limit(self, key: str, *, per: Duration, by: str | None = None) -> bool:
        """As :meth:`Limits.unset_limit`."""
        window = to_timedelta(per, "per")
        unset = await self.database.run(calls.unset_limit(key, window, by))
        self.limit_exchange.denials.forget(key)
        return unset

    async def list_set_limits(self) -> list[LimitSetting]:
        """As :meth:`Limits.list_set_limits`."""
        return await self.database.run(calls.list_settings())

    async def explain_limit(self, key: str) -> list[LimitState]:
        """As :meth:`Limits.explain_limit`."""
        return await self.database.run(calls.states_of(key))
