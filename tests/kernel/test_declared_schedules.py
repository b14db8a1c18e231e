"""Schedules of an app's code: changed at deploy, disabled when removed, whatever restarts when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from pgsync.database.drive import drive
from pgsync.database.pool import execute
from pgsync.schedules import Declared, ScheduleDeclaration, declare_plan, rhythm_from
from tests.eventually import eventually

pytestmark = pytest.mark.core


class Daemon:
    """A session that declares schedules of an app, as a daemon's does."""

    def __init__(self, dsn: str, app: str | None, **every: float) -> None:
        self.app = app
        self._dsn = dsn
        self.declarations = [
            ScheduleDeclaration(name, "task", rhythm_from(seconds, "UTC"))
            for name, seconds in every.items()
        ]
        self.connection = psycopg.connect(dsn, autocommit=True)
        self.done = self.declare(starting=True)

    def declare(self, *, starting: bool = False) -> Declared:
        plan = declare_plan(self.declarations, self.app, starting=starting)
        return drive(plan, partial(execute, self.connection))

    def die(self) -> None:
        pid = self.connection.info.backend_pid
        self.connection.close()
        with psycopg.connect(self._dsn, autocommit=True) as other:
            gone = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)"
            eventually(lambda: other.execute(gone, [pid]).fetchone() == (True,))


@pytest.fixture
def daemon(dsn: str) -> Iterator[Callable[..., Daemon]]:
    with ExitStack() as stack:

        def start(app: str | None, **every: float) -> Daemon:
            return stack.enter_context(_closing(Daemon(dsn, app, **every)))

        yield start


class _closing(ExitStack):  # noqa: N801 - as contextlib names it
    def __init__(self, daemon: Daemon) -> None:
        super().__init__()
        self._daemon = daemon
        self.callback(daemon.connection.close)

    def __enter__(self) -> Any:
        return self._daemon


def schedules(database: psycopg.Connection[Any]) -> dict[str, tuple[str, str]]:
    rows = database.execute("SELECT name, state, expression FROM pgsync.schedules").fetchall()
    return {name: (state, expression) for name, state, expression in rows}


ACTIVE, DISABLED = ("active", "60"), ("disabled", "60")


def test_what_the_code_has_no_more_is_disabled_and_comes_back_with_it(
    daemon: Any, database: psycopg.Connection[Any]
) -> None:
    first = daemon("shop", a=60, b=60)
    assert first.done.changed == ["a", "b"]
    first.die()
    second = daemon("shop", a=60)
    assert second.done.disabled == ["b"]
    assert second.done.changed == []
    assert schedules(database) == {"a": ACTIVE, "b": DISABLED}
    why = "SELECT disabled_why FROM pgsync.schedules WHERE name = 'b'"
    assert database.execute(why).fetchone() == ("the code of shop does not declare it any more",)
    second.die()
    third = daemon("shop", a=60, b=60)
    assert third.done.changed == ["b"]
    # It begins anew: the time it was disabled is not made up for.
    due = "SELECT next_fire_at > pgsync.clock() FROM pgsync.schedules WHERE name = 'b'"
    assert database.execute(due).fetchone() == (True,)


def test_an_old_version_that_restarts_in_a_rolling_deploy_changes_nothing(
    daemon: Any, database: psycopg.Connection[Any]
) -> None:
    olds = [daemon("shop", a=60, b=60) for _ in range(3)]
    new = daemon("shop", a=120, c=60)
    after = {"a": ("active", "120"), "b": DISABLED, "c": ACTIVE}
    assert schedules(database) == after
    olds[0].die()
    again = daemon("shop", a=60, b=60)
    assert not again.done.holds
    assert schedules(database) == after
    assert not olds[1].declare().holds
    # Rolled back: as soon as the last daemon of the new version has gone, the old set holds.
    new.die()
    done = olds[1].declare()
    assert done.holds
    assert (done.changed, done.disabled) == (["a", "b"], ["c"])
    assert schedules(database) == {"a": ACTIVE, "b": ACTIVE, "c": DISABLED}
    assert not olds[2].declare().changed


def test_apps_on_one_database_leave_each_other_alone(
    daemon: Any, database: psycopg.Connection[Any]
) -> None:
    shop = daemon("shop", a=60)
    mail = daemon("mail", b=60, a=300)
    assert mail.done.refused == ["a"]
    assert schedules(database) == {"a": ACTIVE, "b": ACTIVE}
    # An app that has been renamed takes over what nobody living has.
    shop.die()
    mail.die()
    daemon("post", a=300, b=60)
    owners = database.execute("SELECT DISTINCT app FROM pgsync.schedules").fetchall()
    assert owners == [("post",)]


def test_without_an_app_nothing_is_disabled(daemon: Any, database: psycopg.Connection[Any]) -> None:
    daemon(None, a=60).die()
    assert daemon(None, b=60).done.disabled == []
    database.execute("SELECT pgsync.add_schedule('by hand', 'x', '60', 'interval')")
    assert daemon("shop", b=60).done.disabled == []
    assert set(schedules(database)) == {"a", "b", "by hand"}


def test_what_code_declares_is_changed_there(
    daemon: Any, database: psycopg.Connection[Any]
) -> None:
    daemon("shop", a=60)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="change it there"):
        database.execute("SELECT pgsync.add_schedule('a', 'x', '60', 'interval')")


def test_the_daemon_declares_for_its_app(face: Any, database: psycopg.Connection[Any]) -> None:
    wrapped = getattr(face, "wrapped", face)
    wrapped.app = "shop"
    face.schedule(60, name="tick", jitter=5, misfire="all", misfire_limit=7)(lambda: None)
    face.start()
    facts = "SELECT app, jitter::text, misfire_limit FROM pgsync.schedules"
    expected = [("shop", "00:00:05", 7)]
    eventually(lambda: database.execute(facts).fetchall() == expected)
    face.stop()


def test_a_set_with_an_element_that_is_refused_is_not_taken_for_a_living_daemons(
    database: psycopg.Connection[Any],
) -> None:
    sound, wrong = (
        ScheduleDeclaration(name, "task", rhythm_from(60, "UTC")).facts() for name in ("a", "b")
    )
    wrong["kind"] = "moonlight"
    declare = "SELECT holds FROM pgsync.declare_schedules('shop', 'digest', %s)"
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        database.execute(declare, [Jsonb([sound, wrong])])
    lives = "SELECT pgsync.schedule_set_lives('shop', 'digest')"
    assert database.execute(lives).fetchone() == (False,)
    assert schedules(database) == {}
    assert database.execute(declare, [Jsonb([sound])]).fetchone() == (True,)
    assert database.execute(lives).fetchone() == (True,)
