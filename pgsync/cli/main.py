"""``pgsync``: its commands, and how their errors become exit codes.

Exit codes: 0 done, 1 failed, 2 usage or cannot connect, 3 not acquired or limited, 4 unhealthy.
"""

from __future__ import annotations

import sys
from typing import NoReturn

import click

from pgsync.cli.config import config
from pgsync.cli.dashboard import dashboard
from pgsync.cli.db import db
from pgsync.cli.demo import demo
from pgsync.cli.jobs import jobs
from pgsync.cli.limits import limits
from pgsync.cli.locks import locks
from pgsync.cli.maintenance import maintenance
from pgsync.cli.overview import operations, workers
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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pgsync")
@click.pass_context
def cli(context: click.Context) -> None:
    """Locks, job queues, rate limits, schedules and sync operations on PostgreSQL.

    The database is named by --dsn, PGSYNC_DSN or a file (see `pgsync config`); without any of them,
    an embedded server is used.
    """
    if context.invoked_subcommand not in _READ_SETTINGS:
        use_database_of_file()


for command in (
    db,
    demo,
    migrate,
    doctor,
    config,
    dashboard,
    worker,
    daemon,
    status,
    locks,
    jobs,
    queues,
    limits,
    schedules,
    maintenance,
    operations,
    workers,
):
    cli.add_command(command)


def exit_code(error: PgsyncError) -> int:
    """The exit code that scripts are promised for an error."""
    if isinstance(error, _CANNOT):
        return 2
    return 3 if isinstance(error, _NOT_ACQUIRED) else 1


def main() -> NoReturn:
    """Run the command line; a known error is one line on standard error, never a traceback."""
    try:
        # Without standalone mode click returns what a command gave to Context.exit().
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader (head, less) has seen enough.
        sys.stderr.close()
        sys.exit(0)
    except PgsyncError as error:
        click.echo(f"pgsync: {' '.join(str(error).split())}", err=True)
        sys.exit(exit_code(error))
    sys.exit(code if isinstance(code, int) else 0)
