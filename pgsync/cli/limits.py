"""``pgsync limits``: how full limits are, limits set for single keys, penalties."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from pgsync.cli import exits
from pgsync.cli.output import dsn_option, fetch, json_option, show
from pgsync.coordinator import Coordinator
from pgsync.limits import Limit

__all__ = ["LIMIT", "limits"]


class _LimitType(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """So many in so many seconds: 100/60."""

    name = "N/SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        most, _, per = str(value).partition("/")
        try:
            return Limit(int(most), per=float(per))
        except ValueError:
            self.fail(f"{value!r} is not of the form 100/60 (100 in 60 seconds)", param, ctx)


LIMIT = _LimitType()
"""A command's argument or option that is a limit."""


@click.group()
def limits() -> None:
    """Rate limits: how full they are, and limits set for single keys."""


@limits.command("list")
@dsn_option
@json_option
@click.option("--most", type=click.IntRange(1), default=50, show_default=True)
def limits_list(dsn: str | None, as_json: bool, most: int) -> None:
    """Each limit of each key in use, the fullest first."""
    rows = fetch(
        dsn,
        "SELECT l.key, l.algorithm, l.per, l.state, l.hits, l.max, l.fill::float8 AS fill,"
        " l.remaining, l.opens_at, l.waiting, l.is_set, l.penalised_until"
        " FROM pgsync.rate_limits AS l ORDER BY l.fill DESC, l.key, l.per LIMIT %(most)s",
        {"most": most},
    )
    show(rows, as_json=as_json, empty="no limits in use")


@limits.command("show")
@dsn_option
@json_option
@click.argument("key")
def limits_show(dsn: str | None, as_json: bool, key: str) -> None:
    """The limits of KEY (limiter:key): first what binds, until when, and who waits."""
    with Coordinator(dsn) as sync:
        states = sync.explain_limit(key)
    rows = [asdict(state) for state in states]
    if not as_json:
        for row in rows:
            del row["key"]
    show(rows, as_json=as_json, empty="nothing has been taken of it")


@limits.command("overrides")
@dsn_option
@json_option
def limits_overrides(dsn: str | None, as_json: bool) -> None:
    """The limits that are set for single keys."""
    with Coordinator(dsn) as sync:
        rows = [asdict(setting) for setting in sync.list_set_limits()]
    show(rows, as_json=as_json, empty="no limit is set for a single key")


@limits.command("set")
@dsn_option
@click.option("--burst", type=click.IntRange(1), help="How many a token bucket holds.")
@click.option("--by", help="Who sets it; the database's user by default.")
@click.option("--why", help="Why, for the audit trail.")
@click.argument("key")
@click.argument("limit", type=LIMIT)
def limits_set(
    dsn: str | None, burst: int | None, by: str | None, why: str | None, key: str, limit: Limit
) -> None:
    """Set LIMIT, such as 100/60, for KEY (limiter:key), in place of what the app states for it.

    It replaces the limit whose window has these seconds, from the next decision on.
    """
    with Coordinator(dsn) as sync:
        sync.set_limit(key, limit.max, per=limit.per, burst=burst, by=by, why=why)
    click.echo(f"{key}: {limit}")


@limits.command("unset")
@dsn_option
@click.option("--per", type=float, required=True, help="The window, in seconds.")
@click.option("--by", help="Who does it; the database's user by default.")
@click.argument("key")
@click.pass_context
def limits_unset(
    context: click.Context, dsn: str | None, per: float, by: str | None, key: str
) -> None:
    """Let the app's own limit of KEY hold again; exit 3 if none was set."""
    with Coordinator(dsn) as sync:
        unset = sync.unset_limit(key, per=per, by=by)
    click.echo("unset" if unset else "none was set")
    context.exit(0 if unset else exits.NOTHING)
