"""Prepared statements, asked by libpq's own calls: written once for both ways of waiting.

psycopg's cursor and its conversions take about as long as the server takes for one small row. Here
the parameters and the columns go as bytes, in their binary form.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Iterator
from typing import Any, Generic, LiteralString, TypeVar

import psycopg
from psycopg.pq import ConnStatus, ExecStatus, abc

from pgsync.database.calls import Prepared
from pgsync.database.faults import translated

__all__ = ["AsyncPreparedStatements", "PreparedStatements"]

C = TypeVar("C", psycopg.Connection[Any], psycopg.AsyncConnection[Any])
T = TypeVar("T")

_BINARY = 1
# Milliseconds after which a wait looks up: a signal may have come to another thread.
_LOOK_UP = 100

# A plan that was made while a table was empty would scan it ever after, and making one for each
# call takes longer than the call. The parameters are in UTF-8, whatever the environment says.
_SETTINGS: LiteralString = (
    "SET enable_seqscan = off; SET jit = off; SET plan_cache_mode = force_generic_plan;"
    " SET client_encoding = 'UTF8';"
)


class _Statements(Generic[C]):
    def __init__(self, connection: C) -> None:
        self._connection: C = connection
        self._pgconn: abc.PGconn = connection.pgconn
        self._are_prepared: dict[str, bool] = {}
        # Made once: what is done between sending and waiting keeps the processor from the server.
        self._poller = select.poll()
        self._poller.register(self._pgconn.socket, select.POLLIN)

    def heard(self) -> bool:
        """Whether the server has said anything since the last answer. No trip."""
        return bool(self._poller.poll(0))

    def _prepares(self) -> bool:
        """Behind a pooler a statement may come to a session where it is not prepared."""
        return self._connection.prepare_threshold is not None

    def _send(self, prepared: Prepared[Any]) -> None:
        if prepared.behind is None:
            self._send_one(prepared)
            return
        self._pgconn.enter_pipeline_mode()
        for each in (prepared, prepared.behind):
            self._send_one(each)
            self._pgconn.pipeline_sync()  # Where its transaction ends.

    def _send_one(self, prepared: Prepared[Any]) -> None:
        formats = [_BINARY] * len(prepared.parameters)
        self._pgconn.send_query_prepared(
            prepared.name.encode(), prepared.parameters, formats, _BINARY
        )

    def _receiving(self, prepared: Prepared[Any], answers: list[abc.PGresult]) -> Iterator[None]:
        """Collect the answers; yields where there is something to wait for."""
        pgconn = self._pgconn
        in_pipeline, ends = prepared.behind is not None, 0
        while True:
            while pgconn.is_busy():
                yield
                pgconn.consume_input()
            answer = pgconn.get_result()
            if answer is None:
                if not in_pipeline or pgconn.status != ConnStatus.OK:
                    return
            elif answer.status == ExecStatus.PIPELINE_SYNC:
                ends += 1
                if ends == 2:
                    pgconn.exit_pipeline_mode()
                    return
            else:
                answers.append(answer)

    def _read(self, prepared: Prepared[T], answers: list[abc.PGresult]) -> T | None:
        answer = answers[0]
        if answer.status == ExecStatus.TUPLES_OK:
            if not answer.ntuples:
                return None
            columns = range(answer.nfields)
            return prepared.read(
                [
                    [answer.get_value(row, column) or b"" for column in columns]
                    for row in range(answer.ntuples)
                ]
            )
        if self._pgconn.status != ConnStatus.OK:
            raise psycopg.OperationalError(answer.error_message.decode("utf-8", "replace"))
        return None


class PreparedStatements(_Statements[psycopg.Connection[Any]]):
    """The prepared statements of one blocking connection: each is prepared when first asked.

    After an error the connection is of no use, since an answer may be under way, unless one forgoes
    that.
    """

    def ask(self, prepared: Prepared[T]) -> T | None:
        """Ask, and wait for the answer.

        Raises:
            OutcomeUnknown: if the connection broke before it came.
        """
        behind = prepared.behind
        if not self._is_prepared(prepared) or (
            behind and not (_pipelines() and self._is_prepared(behind))
        ):
            return None
        answers: list[abc.PGresult] = []
        receiving = self._receiving(prepared, answers)
        try:
            self._send(prepared)
            for _ in receiving:
                self._poller.poll(_LOOK_UP)
            return self._read(prepared, answers)
        except psycopg.Error:
            with translated():
                raise

    def forgo(self, prepared: Prepared[Any]) -> None:
        """Wait for the answer that is under way, after an interruption, and drop it."""
        with translated():
            for _ in self._receiving(prepared, []):
                self._poller.poll(_LOOK_UP)

    def _is_prepared(self, prepared: Prepared[Any]) -> bool:
        known = self._are_prepared.get(prepared.name)
        if known is None:
            try:
                known = self._prepares()
                if known:
                    self._connection.execute(_SETTINGS, prepare=False)
                    self._connection.execute(_preparation(prepared), prepare=False)
            except psycopg.Error:
                known = False  # Asked in the ordinary way, the database says why.
            self._are_prepared[prepared.name] = known
        return known


class AsyncPreparedStatements(_Statements[psycopg.AsyncConnection[Any]]):
    """As :class:`PreparedStatements`, of an asyncio connection."""

    async def ask(self, prepared: Prepared[T]) -> T | None:
        """As :meth:`PreparedStatements.ask`."""
        behind = prepared.behind
        if not await self._is_prepared(prepared) or (
            behind and not (_pipelines() and await self._is_prepared(behind))
        ):
            return None
        answers: list[abc.PGresult] = []
        try:
            self._send(prepared)
            for _ in self._receiving(prepared, answers):
                await _readable(self._pgconn.socket)
            return self._read(prepared, answers)
        except psycopg.Error:
            with translated():
                raise

    async def _is_prepared(self, prepared: Prepared[Any]) -> bool:
        known = self._are_prepared.get(prepared.name)
        if known is None:
            try:
                known = self._prepares()
                if known:
                    await self._connection.execute(_SETTINGS, prepare=False)
                    await self._connection.execute(_preparation(prepared), prepare=False)
            except psycopg.Error:
                known = False
            self._are_prepared[prepared.name] = known
        return known


def _pipelines() -> bool:
    """Whether this libpq can: one older than 14 cannot."""
    return psycopg.Pipeline.is_supported()


def _preparation(prepared: Prepared[Any]) -> LiteralString:
    return f"PREPARE {prepared.name} AS {prepared.statement}"


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
