"""Lists that are a page and a part of the JSON API: each is one bounded query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, LiteralString

from pgsync.dashboard.reading import MOST_COUNTED, Read

__all__ = ["PANELS", "Panel", "read_panel"]


@dataclass(frozen=True, slots=True)
class Panel:
    """A list of rows; ``name`` is its place in the API (``/api/locks``) and on the page.

    ``fields`` are what a row has: ``name:kind``, with a ? where it may be null. A panel that goes
    back by pages of ``page`` rows has the parameter ``before``.
    """

    name: str
    title: str
    about: str
    fields: str
    query: LiteralString
    page: int | None = None


_ALL = (
    Panel(
        "operations",
        "Operations",
        "The newest runs of operations, refused tries too.",
        "id:integer operation:text key:text state:text actor:text requested_at:moment"
        " finished_at:moment? duration:seconds done:integer? total:integer? error:text?"
        " blocked_by:text? job_id:integer?",
        "SELECT o.id, o.operation, o.key, o.state, o.actor, o.requested_at, o.finished_at,"
        " o.duration, o.done, o.total, o.error, o.blocked_by, o.job_id"
        # The view reckons each run's duration, so that a LIMIT outside would come after a sort.
        " FROM pgsync.operations AS o WHERE o.id = ANY (ARRAY("
        "  SELECT r.id FROM pgsync.operation_run AS r"
        "  WHERE r.id < coalesce(%(before)s, 9223372036854775807) ORDER BY r.id DESC LIMIT 50))"
        " ORDER BY o.id DESC",
        page=50,
    ),
    Panel(
        "queues",
        "Queues",
        f"Queues that have jobs, workers or settings; counts end at {MOST_COUNTED:,}.",
        "name:text paused:boolean paused_at:moment? paused_by:text? available:integer"
        " scheduled:integer waiting:integer running:integer oldest_wait:seconds?"
        " workers:integer stopping:integer capacity:integer jobs_past_hour:integer"
        " discarded_past_hour:integer mean_wait:seconds? mean_run:seconds?"
        " max_running:integer? max_starts:integer?"
        " starts_per:seconds? depths:integers? max_running_per_key:integer?"
        " max_starts_per_key:integer? starts_per_key:seconds?",
        """
        WITH depth AS MATERIALIZED (SELECT * FROM pgsync.queues_now(%(most)s)),
        serving AS (
            SELECT u.queue, count(*) FILTER (WHERE w.stopping_at IS NULL) AS workers,
                   count(w.stopping_at) AS stopping,
                   sum(w.concurrency) FILTER (WHERE w.stopping_at IS NULL) AS capacity
            FROM pgsync.worker AS w CROSS JOIN unnest(w.queues) AS u (queue) GROUP BY u.queue
        ), done AS (
            -- Also those that stand empty whenever their depth is noted.
            SELECT t.queue, sum(t.jobs)::bigint AS jobs_past_hour,
                   coalesce(sum(t.jobs) FILTER (WHERE t.outcome = 'discarded'), 0)::bigint
                       AS discarded_past_hour,
                   sum(t.waited) / sum(t.jobs) AS mean_wait, sum(t.ran) / sum(t.jobs) AS mean_run
            FROM pgsync.throughput_minute AS t
            WHERE t.minute > (SELECT m.counted_until FROM pgsync.throughput_mark AS m)
                             - interval '1 hour'
            GROUP BY t.queue
        ), past AS (
            SELECT t.queue, array_agg(t.available ORDER BY t.at) AS depths
            FROM pgsync.queue_depth AS t WHERE t.at > pgsync.clock() - interval '2 hours'
            GROUP BY t.queue
        )
        SELECT n.name, q.paused_at IS NOT NULL AS paused, q.paused_at, q.paused_by,
               coalesce(d.available, 0) AS available, coalesce(d.scheduled, 0) AS scheduled,
               coalesce(d.waiting, 0) AS waiting, coalesce(d.running, 0) AS running,
               d.oldest_ready AS oldest_wait,
               coalesce(s.workers, 0) + coalesce(a.workers, 0) AS workers,
               coalesce(s.stopping, 0) + coalesce(a.stopping, 0) AS stopping,
               (coalesce(s.capacity, 0) + coalesce(a.capacity, 0))::bigint AS capacity,
               coalesce(h.jobs_past_hour, 0) AS jobs_past_hour,
               coalesce(h.discarded_past_hour, 0) AS discarded_past_hour, h.mean_wait, h.mean_run,
               q.max_running, q.max_starts, q.starts_per, p.depths,
               q.max_running_per_key, q.max_starts_per_key, q.starts_per_key
        FROM (SELECT d.queue AS name FROM depth AS d UNION SELECT q.name FROM pgsync.queue AS q
              UNION SELECT s.queue FROM serving AS s WHERE s.queue <> '*'
              UNION SELECT h.queue FROM done AS h) AS n
        LEFT JOIN depth AS d ON d.queue = n.name
        LEFT JOIN pgsync.queue AS q ON q.name = n.name
        LEFT JOIN serving AS s ON s.queue = n.name
        LEFT JOIN serving AS a ON a.queue = '*'
        LEFT JOIN done AS h ON h.queue = n.name
        LEFT JOIN past AS p ON p.queue = n.name
        WHERE %(queue)s::text IS NULL OR n.name = %(queue)s
        ORDER BY n.name LIMIT 200
        """,
    ),
    Panel(
        "locks",
        "Locks",
        "Locks that are held, those first for which most wait.",
        "name:text mode:text owner:text host:text? pid:integer? token:integer"
        " acquired_at:moment age:seconds expires_at:moment remaining:seconds expired:boolean"
        " waiting:integer waiters:texts asked_by:text?",
        "SELECT l.name, l.mode, l.owner, l.host, l.pid, l.token, l.acquired_at, l.age,"
        " l.expires_at, l.remaining, l.expired, l.waiting, l.waiters, l.asked_by"
        " FROM pgsync.locks AS l ORDER BY l.waiting DESC, l.acquired_at LIMIT 100",
    ),
    Panel(
        "contention",
        "Contention of locks",
        "Locks that were waited for in the past day, those first for which the longest.",
        "name:text waited:seconds most_waiting:integer last_seen_at:moment holder:text?"
        " waiter:text? hours:integers",
        """
        WITH past AS (
            SELECT c.* FROM pgsync.lock_contention AS c
            WHERE c.hour > pgsync.clock() - interval '1 day'
        )
        SELECT p.name, sum(p.waited) AS waited, max(p.most_waiting) AS most_waiting,
               max(p.last_seen_at) AS last_seen_at,
               (array_agg(p.holder ORDER BY p.hour DESC))[1] AS holder,
               (array_agg(p.waiter ORDER BY p.hour DESC))[1] AS waiter,
               ARRAY(SELECT coalesce(extract(epoch FROM o.waited), 0)::bigint
                     FROM generate_series(0, 23) AS n
                     LEFT JOIN past AS o ON o.name = p.name AND o.hour
                         = date_trunc('hour', pgsync.clock(), 'UTC') - (23 - n) * interval '1 hour'
                     ORDER BY n) AS hours
        FROM past AS p GROUP BY p.name ORDER BY waited DESC, p.name LIMIT 20
        """,
    ),
    Panel(
        "limits",
        "Rate limits",
        "Limits in use, penalties and the fullest first.",
        "key:text state:text algorithm:text? per:seconds? hits:integer? max:integer?"
        " fill:number? remaining:integer? opens_at:moment? waiting:integer? is_set:boolean?"
        " shadowed:integer? penalised_until:moment? penalty_reason:text?",
        "SELECT l.key, l.state, l.algorithm, l.per, l.hits, l.max, l.fill, l.remaining, l.opens_at,"
        " l.waiting, l.is_set, l.shadowed, l.penalised_until, l.penalty_reason"
        " FROM pgsync.rate_limits AS l WHERE l.resets_at > pgsync.clock()"
        " ORDER BY l.penalised_until DESC NULLS LAST, l.fill DESC, l.key LIMIT 100",
    ),
    Panel(
        "schedules",
        "Schedules",
        "Schedules, those first that are due next.",
        "name:text state:text task:text queue:text kind:text expression:text timezone:text"
        " next_fire_at:moment? last_fire_at:moment? last_job_id:integer? last_job_state:text?"
        " misfire:text app:text? paused_by:text? paused_why:text? disabled_why:text?"
        " error:text? lags:integers",
        "SELECT s.name, s.state, s.task, s.queue, s.kind, s.expression, s.timezone, s.next_fire_at,"
        " s.last_fire_at, s.last_job_id, s.last_job_state, s.misfire, s.app, s.paused_by,"
        " s.paused_why, s.disabled_why, s.error, ARRAY(SELECT"
        "  (extract(epoch FROM l.fired_at - l.fire_time) * 1000)::bigint FROM ("
        "   SELECT f.fired_at, f.fire_time FROM pgsync.schedule_fire AS f"
        "   WHERE f.schedule = s.name ORDER BY f.fire_time DESC LIMIT 30) AS l"
        "  ORDER BY l.fire_time) AS lags"
        " FROM pgsync.schedules AS s ORDER BY s.next_fire_at, s.name LIMIT 200",
    ),
    Panel(
        "workers",
        "Workers",
        "Living processes that work, and what they do.",
        "id:integer name:text host:text pid:integer version:text kinds:texts queues:texts"
        " state:text running:integer concurrency:integer started_at:moment seen_at:moment"
        " silence:seconds silent:boolean",
        "SELECT w.id, w.name, w.host, w.pid, w.version, w.kinds, w.queues, w.state, w.running,"
        " w.concurrency, w.started_at, w.seen_at, w.silence,"
        " w.silence > interval '60 seconds' AS silent"
        " FROM pgsync.workers AS w ORDER BY w.id LIMIT 200",
    ),
    Panel(
        "jobs",
        "Jobs",
        "The newest jobs, live and ended, that fit all that is asked for.",
        "id:integer queue:text task:text state:text attempt:integer max_attempts:integer"
        " created_at:moment run_at:moment started_at:moment? finished_at:moment? ran:seconds?"
        " error:text? tags:texts",
        """
        SELECT j.id, j.queue, j.task, j.state, j.attempt, j.max_attempts, j.created_at, j.run_at,
               j.started_at, j.finished_at, j.finished_at - j.started_at AS ran,
               j.errors -> -1 ->> 'error' AS error,
               ARRAY(SELECT t.tag #>> '{}'
                     FROM jsonb_path_query(j.tags, '$[*] ? (@.type() == "string")') AS t (tag))
                   AS tags
        FROM pgsync.all_jobs AS j
        WHERE j.id = ANY (%(ids)s::bigint[]) ORDER BY j.id DESC
        """,
        page=50,
    ),
    Panel(
        "maintenance",
        "Maintenance",
        "The duties of the maintenance, and their last runs.",
        "duty:text outcome:text lane:text every:seconds? last_run_at:moment? duration:seconds?"
        " rows:integer? by:text? done_at:moment? done_total:integer? failed_at:moment?"
        " failures:integer? error:text?",
        "SELECT m.duty, m.outcome, m.lane, m.every, m.last_run_at, m.duration, m.rows, m.by,"
        " m.done_at, m.done_total, m.failed_at, m.failures, m.error"
        " FROM pgsync.maintenance AS m ORDER BY m.outcome = 'failed' DESC, m.lane, m.duty",
    ),
    Panel(
        "audit",
        "Audit",
        "What operators did, the newest first.",
        "id:integer at:moment actor:text action:text subject:text detail:object",
        "SELECT a.id, a.at, a.actor, a.action, a.subject, a.detail FROM pgsync.audit AS a"
        " WHERE a.id < coalesce(%(before)s, 9223372036854775807) ORDER BY a.id DESC LIMIT 100",
        page=100,
    ),
)

PANELS = {panel.name: panel for panel in _ALL}


async def read_panel(
    read: Read,
    name: str,
    before: int | None = None,
    ids: list[int] | None = None,
    queue: str | None = None,
) -> list[dict[str, Any]]:
    """The rows of a panel; of one that has pages, those before an id; of jobs, those with ids.

    Of queues, that one.
    """
    given = {"before": before, "most": MOST_COUNTED, "ids": ids, "queue": queue}
    return await read.rows(PANELS[name].query, given)
