"""Campaigns on the command line: made, looked at, started, stopped."""

from __future__ import annotations

from datetime import datetime, timedelta

import click

from pgsync.cli import exits
from pgsync.cli.modules import open_platform, print_result
from pgsync.cli.output import (
    by_option,
    direct_dsn_option,
    dsn_option,
    fetch,
    json_option,
    show,
    show_one,
)

__all__ = ["campaigns"]


@click.group()
def campaigns() -> None:
    """Campaigns: messages to many recipients."""


@campaigns.command("list")
@dsn_option
@json_option
def list_(dsn: str | None, as_json: bool) -> None:
    """The newest campaigns, their states, and how many of their messages went where."""
    rows = fetch(
        dsn,
        "SELECT id, name, state, state_reason, recipients, sent, failed, unknown"
        " FROM pgsync_modules.campaigns ORDER BY id DESC LIMIT 50",
    )
    show(rows, as_json=as_json, empty="no campaigns; make one with pgsync campaigns create")


@campaigns.command("show")
@dsn_option
@json_option
@click.argument("campaign_id", type=int)
@click.pass_context
def show_(context: click.Context, dsn: str | None, as_json: bool, campaign_id: int) -> None:
    """All about one; exit 3 if there is no such campaign."""
    rows = fetch(
        dsn, "SELECT * FROM pgsync_modules.campaigns WHERE id = %(id)s", {"id": campaign_id}
    )
    if not rows:
        show(rows, as_json=as_json, empty=f"no campaign {campaign_id}")
        context.exit(exits.NOTHING)
    show_one(rows[0], as_json=as_json)


@campaigns.command()
@dsn_option
@direct_dsn_option
@click.option("--connection", "connection_id", type=int, required=True)
@click.option("--name", required=True, help="For people.")
@click.option("--template", required=True)
@click.option("--language", required=True, help="The template's, like en_US.")
@click.option("--tag", "tags", multiple=True, help="Contacts with one of these; all without.")
@click.option(
    "--variable",
    "variables",
    multiple=True,
    help="A contact's field for the next variable of the body, or SLOT=FIELD for any.",
)
@click.option(
    "--constant",
    "constants",
    multiple=True,
    help="SLOT=VALUE for all, like header=https://cdn.example/spring.jpg or button.0=stop.",
)
@click.option("--send-delay", type=float, help="Seconds between two messages.")
def create(
    dsn: str | None,
    direct_dsn: str | None,
    connection_id: int,
    name: str,
    template: str,
    language: str,
    tags: tuple[str, ...],
    variables: tuple[str, ...],
    constants: tuple[str, ...],
    send_delay: float | None,
) -> None:
    """Make a draft for the contacts of a connection's workspace, and print its number."""
    with open_platform(dsn, direct_dsn) as platform:
        from pgsync.modules.broadcasts import Audience

        connection = platform.whatsapp.connections.find(connection_id)
        campaign_id = platform.broadcasts.campaigns.create(
            workspace_id=connection.workspace_id,
            connection_id=connection_id,
            name=name,
            template_name=template,
            language=language,
            audience=Audience(tags=tags or None),
            variables=_values(variables) if variables else ("name",),
            constants=_pairs(constants),
            send_delay=send_delay,
        )
        click.echo(campaign_id)


@campaigns.command()
@dsn_option
@direct_dsn_option
@click.option("--messages", default=5, show_default=True, help="How many messages to show.")
@click.argument("campaign_id", type=int)
@click.pass_context
def preflight(
    context: click.Context,
    dsn: str | None,
    direct_dsn: str | None,
    messages: int,
    campaign_id: int,
) -> None:
    """What would keep it from starting, and its first messages; exit 4 if it cannot start."""
    with open_platform(dsn, direct_dsn) as platform:
        report = platform.broadcasts.dry_run(campaign_id, messages)
    print_result(report)
    context.exit(0 if report["ok"] else exits.UNHEALTHY)


@campaigns.command()
@dsn_option
@direct_dsn_option
@click.option("--at", type=click.DateTime(["%Y-%m-%dT%H:%M:%S%z"]), help="With its offset.")
@by_option("Who does it, for the audit trail")
@click.argument("campaign_id", type=int)
def start(
    dsn: str | None, direct_dsn: str | None, at: datetime | None, by: str, campaign_id: int
) -> None:
    """Look at it, and enqueue its sending; prints the job's number."""
    with open_platform(dsn, direct_dsn) as platform:
        click.echo(f"job {platform.broadcasts.start(campaign_id, at, by)}")


@campaigns.command()
@dsn_option
@direct_dsn_option
@by_option("Who does it, for the audit trail")
@click.argument("campaign_id", type=int)
def resume(dsn: str | None, direct_dsn: str | None, by: str, campaign_id: int) -> None:
    """Let one that is paused go on; prints the job's number."""
    with open_platform(dsn, direct_dsn) as platform:
        platform.broadcasts.campaigns.check_state(campaign_id, "paused")
        job = platform.broadcasts.start(campaign_id, by=by)
        click.echo(f"job {job}")


@campaigns.command()
@dsn_option
@direct_dsn_option
@click.option("--why", default="paused by hand", show_default=True)
@by_option("Who does it, for the audit trail")
@click.argument("campaign_id", type=int)
def pause(dsn: str | None, direct_dsn: str | None, why: str, by: str, campaign_id: int) -> None:
    """Stop one that is sending; messages under way are finished."""
    with open_platform(dsn, direct_dsn) as platform:
        platform.broadcasts.campaigns.pause(campaign_id, why, by)
        click.echo("paused")


@campaigns.command()
@dsn_option
@direct_dsn_option
@by_option("Who does it, for the audit trail")
@click.argument("campaign_id", type=int)
def cancel(dsn: str | None, direct_dsn: str | None, by: str, campaign_id: int) -> None:
    """End one for good; messages under way are finished."""
    with open_platform(dsn, direct_dsn) as platform:
        platform.broadcasts.campaigns.cancel(campaign_id, by)
        click.echo("cancelled")


@campaigns.command("test-send")
@dsn_option
@direct_dsn_option
@click.option("--value", "values", multiple=True, help="For the body in order, or SLOT=VALUE.")
@click.argument("campaign_id", type=int)
@click.argument("phone")
def test_send(
    dsn: str | None, direct_dsn: str | None, values: tuple[str, ...], campaign_id: int, phone: str
) -> None:
    """Send its message once to a number of your own; prints the message's id."""
    with open_platform(dsn, direct_dsn) as platform:
        click.echo(platform.broadcasts.test_send(campaign_id, phone, _values(values)))


@campaigns.command()
@dsn_option
@direct_dsn_option
@click.option("--name", help="Of the new one; by default the same.")
@click.argument("campaign_id", type=int)
def duplicate(dsn: str | None, direct_dsn: str | None, name: str | None, campaign_id: int) -> None:
    """Make a draft with the same settings, and print its number."""
    with open_platform(dsn, direct_dsn) as platform:
        click.echo(platform.broadcasts.campaigns.duplicate(campaign_id, name))


@campaigns.command("retry-failed")
@dsn_option
@direct_dsn_option
@by_option("Who does it, for the audit trail")
@click.argument("campaign_id", type=int)
def retry_failed(dsn: str | None, direct_dsn: str | None, by: str, campaign_id: int) -> None:
    """Make the failed messages of one pending again, and start it."""
    with open_platform(dsn, direct_dsn) as platform:
        count = platform.broadcasts.campaigns.retry_failed(campaign_id, by)
        click.echo(f"{count} again, job {platform.broadcasts.start(campaign_id, by=by)}")


@campaigns.command("retry-unknown")
@dsn_option
@direct_dsn_option
@click.option("--days", default=7.0, show_default=True, help="Unknown for so long at the least.")
@click.option("--yes", is_flag=True, help="Some may get the message a second time: do it.")
@by_option("Who does it, for the audit trail")
@click.argument("campaign_id", type=int)
def retry_unknown(
    dsn: str | None, direct_dsn: str | None, days: float, yes: bool, by: str, campaign_id: int
) -> None:
    """Send again where nobody knows whether the message was accepted, and start the campaign."""
    if not yes:
        raise click.UsageError("some may get the message a second time; --yes does it all the same")
    with open_platform(dsn, direct_dsn) as platform:
        campaigns = platform.broadcasts.campaigns
        count = campaigns.retry_unknown(campaign_id, timedelta(days=days), by)
        click.echo(f"{count} again, job {platform.broadcasts.start(campaign_id, by=by)}")


def _values(given: tuple[str, ...]) -> tuple[str, ...] | dict[str, str]:
    """As they are, or by slot where the first names one."""
    return _pairs(given) if given and "=" in given[0] else given


def _pairs(given: tuple[str, ...]) -> dict[str, str]:
    for each in given:
        if "=" not in each:
            raise click.UsageError(f"{each!r} must be SLOT=VALUE, like header=https://...")
    return {slot: value for slot, _, value in (each.partition("=") for each in given)}
