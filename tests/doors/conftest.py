"""What the tests of doors share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from pgsync import Coordinator
from pgsync.doors.limits import PostgresStorage
from tests.kernel.conftest import Clock
from tests.serving import serving

__all__ = ["STORAGE_TABLES", "Clock"]

STORAGE_TABLES = (
    "pgsync.limits_storage_counter",
    "pgsync.limits_storage_sliding",
    "pgsync.limits_storage_moving",
    "pgsync.limits_storage_entry",
)


@pytest.fixture
def clock(database: psycopg.Connection[Any]) -> Clock:
    """Time that the test sets."""
    return Clock(database)


@pytest.fixture
def storage(sync: Coordinator) -> PostgresStorage:
    """The blocking storage for the library limits."""
    return PostgresStorage(coordinator=sync)


@pytest.fixture
def serve() -> Iterator[Callable[[Any], str]]:
    """Serves ASGI apps on free ports of the loopback interface; answers with the URL of each."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(serving(app))
