"""``pgsync``: its commands, and how their errors become exit codes.

Exit codes: 0 done, 1 failed, 2 usage or cannot connect, 3 not acquired or limited, 4 unhealthy.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from typing import NoReturn

import click

from pgsync.cli import exits
from pgsync.cli.campaigns import campaigns
from pgsync.cli.config import config
from pgsync.cli.contacts import contacts
from pgsync.cli.dashboard import dashboard
from pgsync.cli.db import db
from pgsync.cli.demo import demo
from pgsync.cli.jobs import jobs
from pgsync.cli.limits import limits
from pgsync.cli.locks import locks
from pgsync.cli.maintenance import maintenance
from pgsync.cli.modules import templates
from pgsync.cli.operations import operations
from pgsync.cli.overview import audit, workers
from pgsync.cli.queues import queues
from pgsync.cli.schedules import schedules
from pgsync.cli.schema import doctor, migrate
from pgsync.cli.settings import use_database_of_file
from pgsync.cli.status import status
from pgsync.cli.work import daemon, worker
from pgsync.errors import (
    ConnectionFailed,
    InvalidArgument,
    LockHeld,
    OperationBlocked,
    PgsyncError,
    RateLimited,
    SchemaMissing,
    SchemaTooNew,
    ServerUnsupported,
)
from pgsync.version import __version__

__all__ = ["cli", "exit_code", "main"]

_CANNOT = (InvalidArgument, ConnectionFailed, ServerUnsupported, SchemaMissing, SchemaTooNew)
_READ_SETTINGS = ("config", "daemon", "worker")
_NOT_ACQUIRED = (LockHeld, OperationBlocked, RateLimited)


class _Sections(click.Group):
    """A group whose help lists its commands by what one wants to do."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for title, commands in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(command.name or "", command.get_short_help_str(80)) for command in commands]
                )


@click.group(cls=_Sections, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pgsync")
@click.pass_context
def cli(context: click.Context) -> None:
    """Locks, job queues, rate limits, schedules and sync operations on PostgreSQL.

    The database is named by --dsn, PGSYNC_DSN or a file (see `pgsync config`); without any of them,
    an embedded server is used.

    Exit codes: 0 done, 1 failed, 2 usage or cannot connect, 3 not acquired or limited, 4 unhealthy.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # arguments may be no Unicode text
    if context.invoked_subcommand not in _READ_SETTINGS:
        use_database_of_file()


_SECTIONS: Mapping[str, tuple[click.Command, ...]] = {
    "Begin": (demo, db, migrate, doctor, config),
    "Run": (worker, daemon, dashboard),
    "See and steer": (
        status,
        locks,
        jobs,
        queues,
        limits,
        schedules,
        operations,
        workers,
        maintenance,
        audit,
    ),
    "Modules": (templates, campaigns, contacts),
}

for _commands in _SECTIONS.values():
    for _command in _commands:
        cli.add_command(_command)


def exit_code(error: PgsyncError) -> int:
    """The exit code that scripts are promised for an error."""
    if isinstance(error, _CANNOT):
        return exits.CANNOT
    return exits.NOTHING if isinstance(error, _NOT_ACQUIRED) else exits.FAILED


def main() -> NoReturn:
    """Run the command line; a known error is one line on standard error, never a traceback."""
    try:
        # Without standalone mode click returns what a command gave to Context.exit().
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(exits.CANNOT)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(exits.INTERRUPTED)
    except BrokenPipeError:
        # The reader (head, less) has seen enough.
        sys.stderr.close()
        sys.exit(0)
    except PgsyncError as error:
        click.echo(f"pgsync: {' '.join(str(error).split())}", err=True)
        sys.exit(exit_code(error))
    sys.exit(code if isinstance(code, int) else 0)
