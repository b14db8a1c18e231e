"""What the dashboard is looked at with: a few jobs, or a database in which a bit of all goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from pgsync import Coordinator, Limit, current_job

__all__ = ["HOSTILE", "audit", "busy_site", "enqueue"]

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'

_STATISTICS = """
INSERT INTO pgsync.throughput_minute
SELECT m, q.queue, q.task, 'completed',
       (q.rate * (1 + 0.4 * sin(extract(epoch FROM m) / 400 + q.rate)))::bigint,
       q.rate * interval '0.4 s', q.rate * interval '0.25 s', interval '4 s', interval '2 s'
FROM generate_series(date_trunc('minute', now(), 'UTC') - interval '59 minutes',
                     date_trunc('minute', now(), 'UTC') - interval '1 minute',
                     interval '1 minute') AS m
CROSS JOIN (VALUES ('mail', 'send_mail', 420), ('reports', 'render_report', 35),
                   ('webhooks', 'deliver', 160)) AS q (queue, task, rate);
INSERT INTO pgsync.throughput_minute
SELECT m, 'webhooks', 'deliver', 'discarded', 3 + (extract(epoch FROM m) / 60)::bigint % 9,
       interval '3 s', interval '9 s', interval '2 s', interval '3 s'
FROM generate_series(date_trunc('minute', now(), 'UTC') - interval '25 minutes',
                     date_trunc('minute', now(), 'UTC') - interval '14 minutes',
                     interval '1 minute') AS m;
INSERT INTO pgsync.queue_snapshot
SELECT m, q.queue,
       greatest(0, q.depth * (1 + sin(extract(epoch FROM m) / 900 + q.depth)))::bigint,
       0, 0, 3, '2 s'
FROM generate_series(now() - interval '2 hours', now(), interval '1 minute') AS m
CROSS JOIN (VALUES ('mail', 900), ('reports', 40), ('webhooks', 300)) AS q (queue, depth);
UPDATE pgsync.throughput_mark SET counted_until = now() - interval '20 s';
"""
_JOBS = """
SELECT pgsync.enqueue('send_mail', jsonb_build_object('to', 'user' || n || '@example.org'), 'mail')
FROM generate_series(1, 340) AS n;
SELECT pgsync.enqueue('render_report', jsonb_build_object('month', n, 'api_key', 'k'), 'reports')
FROM generate_series(1, 12) AS n;
SELECT pgsync.enqueue('deliver', '{"url": "https://example.org/hook"}', 'webhooks',
    run_at => now() + interval '1 hour');
SELECT pgsync.cancel_job(id) FROM pgsync.job_ready WHERE queue = 'reports' ORDER BY id LIMIT 3;
SELECT pgsync.pause_queue('reports', 'grace');
SELECT pgsync.add_schedule('nightly report', 'render_report', '0 3 * * *', queue => 'reports');
SELECT pgsync.add_schedule('refresh tokens', 'refresh', '900', kind => 'interval');
SELECT pgsync.pause_schedule('refresh tokens', 'grace', 'until the provider is back');
SELECT pgsync.set_limit('graph:connection:7', 100, '1 minute', actor => 'ada', reason => 'plan');
SELECT pgsync.operation_progress(
    pgsync.begin_operation('contact_import', 'contact_import:account:9', '{}', 'ada',
                           NULL, NULL, NULL), 1840, 5200);
SELECT pgsync.operation_progress(
    pgsync.begin_operation('template_sync', 'template_sync:connection:32', '{}', 'grace',
                           NULL, NULL, NULL), 96, 240);
CALL pgsync.do_duties(ARRAY['prepare history', 'drop old history'], 'web-1:4711');
"""


@contextmanager
def busy_site(sync: Coordinator, database: psycopg.Connection[Any]) -> Iterator[None]:
    """Queues with and without trouble, locks, limits, schedules and runs of operations."""
    for statement in (_STATISTICS + _JOBS).split(";\n"):
        if statement.strip():
            database.execute(statement)

    @sync.task(name="deliver", queue="webhooks", max_attempts=1, tags=["hooks", "eu"])
    def deliver(url: str, secret: str, body: dict[str, Any]) -> None:
        job = current_job()
        assert job
        job.log(f"POST {url}, 2,114 bytes")
        job.log("no answer within 10 s, asking once more")
        raise ConnectionError(f"{url}: the other side closed the connection")

    @sync.operation("template_sync", lock="template_sync:connection:{connection_id}", ttl=600)
    def template_sync(op: Any, connection_id: int) -> None:
        op.progress(240, 240)

    @sync.operation("contact_import", lock="contact_import:account:{account}", ttl=600)
    def contact_import(op: Any, account: int) -> None:
        raise ValueError("row 17 has no phone number")

    for n in range(4):
        body = {"event": "order.paid", "order": {"id": 10**18 + n, "total": 129.9}}
        deliver.enqueue(url=f"https://example.org/hooks/{n}", secret="whsec_1", body=body)
    for connection in (7, 12, 31):
        template_sync(connection_id=connection)
    with suppress(ValueError):
        contact_import(account=4)
    for name, key, most, hits in (
        ("graph", "connection:7", 100, 61),
        ("sms", "account:4", 10, 9),
        ("login", "10.0.0.9", 5, 5),
    ):
        limiter = sync.limiter(name, Limit(most, per=60))
        for _ in range(hits):
            limiter.hit(key)
    with (
        sync.lock("invoices:2026-11", ttl=900, owner="billing@web-2"),
        sync.lock("template_sync:connection:31", ttl=600, owner="sync@web-1"),
    ):
        yield


def enqueue(database: Any, task: str = "send", count: int = 1, **args: Any) -> list[int]:
    rows = database.execute(
        "SELECT pgsync.enqueue(%s, %s::jsonb) FROM generate_series(1, %s)",
        [task, json.dumps(args), count],
    )
    return [row[0] for row in rows.fetchall()]


def audit(database: Any) -> list[tuple[str, str, str]]:
    rows = database.execute("SELECT action, subject, actor FROM pgsync.audit ORDER BY id")
    return rows.fetchall()
