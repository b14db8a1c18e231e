-- Who keeps dead rows from being vacuumed: the queues' indexes grow by them while it lasts.

CREATE OR REPLACE VIEW pgsync.oldest_snapshot AS
SELECT p.kind, p.pid, p.name, p.database, p.state, p.query,
       clock_timestamp() - p.since AS age, p.since, p.xid_age, p.ended_by
FROM (
    SELECT 'session' AS kind, a.pid, a.application_name AS name, a.datname::text AS database, a.state,
           left(a.query, 200) AS query, coalesce(a.xact_start, a.query_start, a.backend_start) AS since,
           greatest(age(a.backend_xmin), age(a.backend_xid)) AS xid_age,
           format('SELECT pg_terminate_backend(%s)', a.pid) AS ended_by
    FROM pg_stat_activity AS a
    WHERE a.pid <> pg_backend_pid() AND a.backend_type <> 'walsender'
      AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)
      -- Those of other databases hold back shared tables only; VACUUM itself holds nothing back.
      AND a.datname = current_database()
      AND a.backend_type <> 'autovacuum worker'
    UNION ALL
    SELECT 'standby', r.pid, r.application_name, NULL, r.state, NULL, a.backend_start, age(r.backend_xmin),
           'hot_standby_feedback = off on the standby, or end its long queries'
    FROM pg_stat_replication AS r JOIN pg_stat_activity AS a ON a.pid = r.pid
    WHERE r.backend_xmin IS NOT NULL
    UNION ALL
    -- A slot of a standby has xmin; one of logical decoding pins the catalogs by catalog_xmin.
    SELECT 'replication slot', s.active_pid, s.slot_name::text, s.database::text,
           CASE WHEN s.active THEN 'active' ELSE 'inactive' END, NULL, NULL,
           greatest(age(s.xmin), age(s.catalog_xmin)),
           format('SELECT pg_drop_replication_slot(%L)', s.slot_name)
    FROM pg_replication_slots AS s WHERE s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL
    UNION ALL
    SELECT 'prepared transaction', NULL, t.gid, t.database::text, 'prepared', NULL, t.prepared, age(t.transaction),
           format('ROLLBACK PREPARED %L', t.gid)
    FROM pg_prepared_xacts AS t WHERE t.database = current_database()
) AS p
ORDER BY p.xid_age DESC, p.since;

COMMENT ON VIEW pgsync.oldest_snapshot IS
    'Who pins the vacuum horizon of this database, the oldest first: sessions, standbys, replication slots and prepared transactions; how old in time (unknown for slots, and for others'' sessions without pg_read_all_stats) and in transactions, and what would end it.';
