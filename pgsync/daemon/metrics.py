"""Metrics in the text format of Prometheus: of the database as a whole, and of this process.

The names, and what they mean, are in ``docs/daemon.md``. Needs the extra ``metrics``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from pgsync.daemon.vitals import Vitals
from pgsync.database.calls import Listing
from pgsync.errors import InvalidArgument
from pgsync.version import __version__

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["CONTENT_TYPE", "Sample", "check_metrics", "read_metrics", "render_metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Sample(NamedTuple):
    """One value of a metric."""

    metric: str
    labels: Mapping[str, str]
    value: float


# The families, their kinds, and what they say. Names end as their units do.
_FAMILIES = {
    "pgsync_up": ("gauge", "Whether the database answered."),
    "pgsync_build_info": ("gauge", "The version of pgsync that answers; always 1."),
    "pgsync_queue_jobs": ("gauge", "Jobs by queue and state, at the last snapshot."),
    "pgsync_queue_oldest_ready_seconds": ("gauge", "How long a queue's first job has been due."),
    "pgsync_jobs_finished_total": ("counter", "Jobs that ended, by outcome."),
    "pgsync_job_wait_seconds": ("histogram", "How long jobs had waited when they began."),
    "pgsync_job_run_seconds": ("histogram", "How long the last attempts of jobs that ended ran."),
    "pgsync_jobs_rescued_total": ("counter", "Jobs taken from dead workers."),
    "pgsync_workers": ("gauge", "Living processes that work, by what they do."),
    "pgsync_schedule_lag_seconds": ("gauge", "How late the first due schedule is."),
    "pgsync_maintenance_failures_total": ("counter", "Runs of a duty that failed."),
    "pgsync_notify_queue_usage_ratio": ("gauge", "How full the server's notification queue is."),
    "pgsync_table_dead_ratio": ("gauge", "Dead rows by all rows of a table."),
    "pgsync_oldest_xmin_seconds": ("gauge", "Age of the snapshot that holds back vacuum most."),
    "pgsync_listen_connected": ("gauge", "Whether word of new jobs reaches this daemon."),
    "pgsync_lock_lost_total": ("counter", "Locks that holders in this daemon have lost."),
    "pgsync_limit_decisions_total": ("counter", "Hits of limiters in this daemon, by outcome."),
}
_PARTS = ("_bucket", "_count", "_sum")


def check_metrics() -> None:
    """Raise where the library that writes metrics is missing.

    Raises:
        InvalidArgument: with the extra to install.
    """
    try:
        import prometheus_client.core  # noqa: F401 - asked for
    except ModuleNotFoundError:
        raise InvalidArgument(
            "metrics need the library prometheus-client: install pgsync-coordination[metrics]"
        ) from None


def read_metrics() -> Listing[Sample]:
    """Ask the database for its own."""
    return Listing(
        "SELECT m.metric, m.labels, m.value FROM pgsync.metrics AS m", {}, lambda row: Sample(*row)
    )


def render_metrics(samples: Iterable[Sample] | None, vitals: Vitals | None = None) -> bytes:
    """The page: what the database said (None: nothing), and what this daemon knows of itself."""
    from prometheus_client.exposition import generate_latest

    general = [
        Sample("pgsync_build_info", {"version": __version__}, 1),
        Sample("pgsync_up", {}, float(samples is not None)),
    ]
    families = _families([*general, *(samples or ()), *(_own(vitals) if vitals else ())])

    class Page:
        def collect(self) -> Iterator[Metric]:
            return iter(families)

    return generate_latest(Page())


def _own(vitals: Vitals) -> Iterator[Sample]:
    if vitals.listening is not None:
        yield Sample("pgsync_listen_connected", {}, float(vitals.listening))
    # A counter begins at 0, not with the first that it counts.
    yield Sample("pgsync_lock_lost_total", {}, vitals.counts["pgsync_lock_lost_total", ()])
    for (metric, labels), total in sorted(vitals.counts.items()):
        if labels:
            yield Sample(metric, dict(labels), total)


def _families(samples: Iterable[Sample]) -> list[Metric]:
    from prometheus_client.core import Metric

    # The library adds a counter's _total itself.
    families = {
        name: Metric(name.removesuffix("_total") if kind == "counter" else name, text, kind)
        for name, (kind, text) in _FAMILIES.items()
    }
    for sample in samples:
        name = sample.metric
        for part in _PARTS:
            name = name.removesuffix(part)
        if name in families:  # else it is of a newer version of the schema
            families[name].add_sample(sample.metric, dict(sample.labels), sample.value)
    return [family for family in families.values() if family.samples]
