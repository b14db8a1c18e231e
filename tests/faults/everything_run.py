"""One run of the whole under faults: servers, a stand-in, all kinds of processes, the verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from pgsync.database.migrations import migrate
from pgsync.modules.contacts.sample import REGION, write_sample
from pgsync.modules.models import Workspace
from pgsync.modules.platform import Platform
from pgsync.modules.whatsapp.standin import GraphStandin
from tests.eventually import eventually
from tests.faults import ledger
from tests.faults.campaign_ledger import CampaignSettings, platform_on, prepare_campaign
from tests.faults.campaign_worker import CampaignOrders
from tests.faults.crew import Crew, Crews
from tests.faults.disk import can_mount
from tests.faults.everything_check import After, check_everything
from tests.faults.everything_storm import FULL_DISK, KINDS, EverythingStorm, all_faults
from tests.faults.holder_ledger import PLACES, create_holdings
from tests.faults.holder_worker import HolderOrders
from tests.faults.importer import ImportOrders
from tests.faults.job_ledger import create_effects
from tests.faults.job_worker import JobOrders
from tests.faults.limit_worker import LimitOrders
from tests.faults.lock_worker import LockOrders
from tests.faults.pair import Pair
from tests.faults.process import Orders
from tests.faults.proxy import Proxy
from tests.faults.report import Report, run_folder
from tests.faults.schedule_daemon import ScheduleOrders
from tests.faults.witness import Outage, witness

__all__ = ["EverythingSettings", "run"]

_SERVER = {
    # So few that strangers can use them up.
    "max_connections": "120",
    "max_locks_per_transaction": "64",
    # So little that a disk is full soon, and a copy of it is made soon.
    "shared_buffers": "64MB",
    "min_wal_size": "32MB",
    "max_wal_size": "128MB",
}
_GOES_ON_SECONDS = 120.0
_STOP_SECONDS = 90.0


@dataclass(frozen=True)
class EverythingSettings:
    """``seconds`` is how long faults come, and each of the ``kinds`` comes once at least.

    ``calm`` is as in :func:`all_faults`; then, how many processes there are of each sort.
    """

    seconds: float
    seed: str
    kinds: Collection[str] = tuple(KINDS)
    calm: float = 3.0
    lockers: int = 2
    jobbers: int = 2
    daemons: int = 2
    senders: int = 1
    importers: int = 2
    limiters: int = 1
    holders: int = 2
    schedules: int = 20
    rows: int = 1_000
    imports_a_minute: int = 10
    recipients_a_second: float = 10.0


def run(settings: EverythingSettings) -> Report:
    """Let all work, blow, see all go on, stop them, and check what they left."""
    report = Report()
    with ExitStack() as stack:
        folder = stack.enter_context(run_folder(report))
        (folder / "server").mkdir(mode=0o711)
        kinds = set(settings.kinds)
        limited = FULL_DISK in kinds and can_mount(folder)
        if FULL_DISK in kinds and not limited:
            kinds.remove(FULL_DISK)
            report.figures["left out"] = f"{FULL_DISK}: this user may mount nothing here"
        graph = stack.enter_context(GraphStandin(token="faults", templates=0))
        pair = stack.enter_context(Pair(folder / "server", _SERVER, limited=limited))
        proxy = stack.enter_context(Proxy(pair.primary.dsn))
        orders, after = _prepare(pair, proxy, graph, folder, settings)
        crews = {name: _crew(name, each, folder, settings) for name, each in orders.items()}
        all_crews = Crews(folder, crews)
        faults = all_faults(settings.seed, kinds, settings.calm)
        storm = EverythingStorm(pair, proxy, all_crews, faults)
        report.faults = storm.done
        outages: list[Outage] = []
        try:
            all_crews.start_all()
            _see_all_go_on(pair, crews)
            with witness(lambda: pair.primary.dsn) as outages:
                storm.blow(settings.seconds, least=len(kinds))
            _see_all_go_on(pair, crews)
        except AssertionError as error:
            report.violations.append(f"it did not come so far: {error!r}")
        finally:
            report.violations += all_crews.stop(_STOP_SECONDS)
        histories = {name: ledger.events(crew.folder) for name, crew in crews.items()}
        violations, figures = check_everything(pair.primary.dsn, graph, histories, after, outages)
        report.violations += violations
        report.figures |= figures
    return report


def _prepare(
    pair: Pair, proxy: Proxy, graph: GraphStandin, folder: Path, settings: EverythingSettings
) -> tuple[dict[str, Orders], After]:
    """The database's tables, a campaign and a file, and what each kind of process is told."""
    dsn = pair.primary.dsn
    migrate(dsn, modules=True)
    ledger.create(dsn)
    create_effects(dsn)
    create_holdings(dsn)
    minutes = settings.seconds / 60
    campaign = CampaignSettings(
        recipients=max(200, round(settings.recipients_a_second * settings.seconds)),
        seed=settings.seed,
    )
    with platform_on(dsn, graph) as platform:
        number = prepare_campaign(platform, graph, campaign)
        workspaces = _workspaces(platform, max(3, round(settings.imports_a_minute * minutes)))
    truth = write_sample(folder / "contacts.csv", rows=settings.rows)
    told: dict[str, Any] = {"dsn": proxy.dsn, "seed": settings.seed}
    imports = ImportOrders(
        **told, path=str(folder / "contacts.csv"), region=REGION, workspaces=workspaces
    )
    orders: dict[str, Orders] = {
        "lockers": LockOrders(**told, ttl=1.0, wait=3.0, guarded=True, threads=2),
        "jobbers": JobOrders(**told, guarded=True, pause=0.02),
        "daemons": ScheduleOrders(**told, schedules=settings.schedules),
        "senders": CampaignOrders(**told, graph_url=graph.url),
        "importers": imports,
        "limiters": LimitOrders(**told),
        "holders": HolderOrders(**told, slots=PLACES["slots"]),
    }
    return orders, After(number, campaign, imports, truth)


def _workspaces(platform: Platform, count: int) -> list[int]:
    with platform.sessions.begin() as session:
        made = [Workspace(name=f"Import {n}", default_region=REGION) for n in range(count)]
        session.add_all(made)
        session.flush()
        return [workspace.id for workspace in made]


_MODULES = {
    "lockers": "tests.faults.lock_worker",
    "jobbers": "tests.faults.job_worker",
    "daemons": "tests.faults.schedule_daemon",
    "senders": "tests.faults.campaign_worker",
    "importers": "tests.faults.importer",
    "limiters": "tests.faults.limit_worker",
    "holders": "tests.faults.holder_worker",
}


def _crew(name: str, orders: Orders, folder: Path, settings: EverythingSettings) -> Crew:
    (folder / name).mkdir()
    return Crew(_MODULES[name], orders, folder / name, getattr(settings, name))


def _see_all_go_on(pair: Pair, crews: dict[str, Crew]) -> None:
    """Everybody who cannot have done all there was to do does more, soon."""
    before = eventually(lambda: _progress(pair, crews), within=_GOES_ON_SECONDS)
    eventually(
        lambda: all(
            after > before[what] for what, after in (_progress(pair, crews) or before).items()
        ),
        within=_GOES_ON_SECONDS,
    )


def _progress(pair: Pair, crews: dict[str, Crew]) -> dict[str, int]:
    """How much was done of each; nothing where the server does not answer."""
    counted = {"passed": _passed(crews["limiters"])}
    try:
        with psycopg.connect(pair.primary.dsn, autocommit=True) as connection:
            for table in ("ledger", "effect", "pgsync.schedule_fire"):
                name = sql.Identifier(*table.split("."))
                query = sql.SQL("SELECT count(*) FROM {}").format(name)
                counted[table] = (connection.execute(query).fetchone() or (0,))[0]
            for what in PLACES:
                query = "SELECT count(*) FROM holding WHERE what = %s"
                counted[what] = (connection.execute(query, [what]).fetchone() or (0,))[0]
    except psycopg.OperationalError:
        return {}
    return counted


def _passed(crew: Crew) -> int:
    return Counter(event["event"] for event in ledger.events(crew.folder))["passed"]
