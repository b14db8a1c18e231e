"""What threads of the fault harness share that do guarded work: turn after turn, whatever comes."""

from __future__ import annotations

import random
import threading
import traceback
from collections.abc import Callable
from typing import Any

import psycopg

from pgsync import ConnectionFailed, LockCapacityError, LockHeld, LockLost, OutcomeUnknown
from tests.faults.history import History

__all__ = ["GuardedWork"]


class GuardedWork:
    """One thread's, with a connection of its own for what is guarded."""

    def __init__(
        self, dsn: str, seed: str, name: str, history: History, stop: threading.Event
    ) -> None:
        self._dsn = dsn
        self._name = name
        self._random = random.Random(seed)
        self._history = history
        self._stop = stop
        self._sections = 0
        self._data: psycopg.Connection[Any] | None = None

    def again_and_again(self, turn: Callable[[], None]) -> None:
        """Take turns until told to stop; what is not expected is recorded, and work goes on."""
        while not self._stop.is_set():
            try:
                turn()
            except (LockHeld, LockLost):
                continue
            except (psycopg.Error, ConnectionFailed, OutcomeUnknown, LockCapacityError):
                self._stop.wait(self._random.uniform(0.005, 0.05))
            except Exception:  # noqa: BLE001 - the checker reports it, with all it says
                self._history.add("error", worker=self._name, error=traceback.format_exc())
                self._stop.wait(0.05)
        if self._data is not None:
            self._data.close()

    def commit(
        self, work: Callable[[psycopg.Connection[Any], str], dict[str, Any]], **facts: Any
    ) -> None:
        """Commit what ``work`` does with a connection, as a section of a name of its own.

        Its outcome is recorded when it is known, with the facts, and those that it returned.
        """
        self._sections += 1
        section = f"{self._name}.{self._sections}"
        outcome = "failed"  # before COMMIT is sent an error means that nothing was committed
        data = self._connection()
        try:
            facts |= work(data, section)
            outcome = "unknown"
            data.commit()
            outcome = "acknowledged"
        except LockLost:
            outcome = "refused"
            data.rollback()
            raise
        except Exception:
            data.close()
            raise
        finally:
            self._history.add(outcome, worker=self._name, section=section, **facts)

    def _connection(self) -> psycopg.Connection[Any]:
        if self._data is None or self._data.closed:
            self._data = psycopg.connect(self._dsn, application_name="guarded data")
        return self._data
