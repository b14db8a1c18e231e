-- Installs the schema pgsync, or brings it up to this version:
--     psql "$PGSYNC_DSN" -f sql/install.sql
-- Written by python -m pgsync.database.install_script; do not edit.

\set ON_ERROR_STOP on
SELECT pg_advisory_lock(1715735445101742194) \g /dev/null
-- All traffic would wait behind whoever waits longer for a table: rather run this again.
SET lock_timeout = '2s';
SELECT to_regclass('pgsync.schema_migration') IS NULL AS pending \gset
\if :pending
BEGIN;
\ir migrations/0001_foundation.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 1, 'foundation', '4631f687614205a4d86fc596566648b0bd120a0c14a0fc934afc9f8aeab11b53');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 2) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0002_locks.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 2, 'locks', '3b39356aea3b4b40dd9f897b04fb2f235f136f53d89db00637be35414f6cdd2b');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 3) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0003_limits.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 3, 'limits', 'e44b80b58c7345898b0243a629805b069001367523fed4a9c1dbf63d539bd3cb');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 4) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0004_queues.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 4, 'queues', '8a5d300e27998af138202a3a87a8ac1547a1aa4b91d722d6be19be5d79070e0d');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 5) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0005_schedules.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 5, 'schedules', 'a4ae0c109063714676e7bf136d6c2bb7bcb117a12bdbed033f60d24bb5fe1ff6');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 6) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0006_operations.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 6, 'operations', '36af002ab9b4851943456cdcd4ea10c19e14b08164279c42d3a8e2d80ce6b01d');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 7) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0007_lock_modes.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 7, 'lock_modes', 'a5ad776d724079ef74992ca815105ba9a8c5f508526a80c50857270c14b18974');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 8) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0008_job_keys.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 8, 'job_keys', 'c2c2cb55ad1ae9656e808e934a8cfa735a9711c039acf73bab2ee06618565bc1');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 9) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0009_queue_floors.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 9, 'queue_floors', 'cd5b8b94c8c33c201de78dc90b6cc305b454f9f54ac0367d19d398c1ac5af37f');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 10) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0010_job_dependencies.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 10, 'job_dependencies', '430dbdb7c9c85265e4740fa223048713770c462c334da2fa29c9c755a8e903f9');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 11) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0011_numbered_jobs.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 11, 'numbered_jobs', '1e1af8c1ff529b2c0429c9d5633cfd3a6639e9e1797c5271095730b025b1c2dc');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 12) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0012_job_locks.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 12, 'job_locks', '41554804ba0b0a399b1d1a0769df701db4b9f5607ef1c82b5c3aa14ca6c19174');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 14) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0014_untold_discards.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 14, 'untold_discards', '52194684753706835613b59c964f2f723cc64f40e568c784387a6bb1731268e6');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 15) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0015_limit_algorithms.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 15, 'limit_algorithms', 'bb3a0092a46bde3da1866741cb1335dc08b630d850d4135b21bcb13d86eaab03');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 16) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0016_limit_checks.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 16, 'limit_checks', '9d8f40258acfd69b319c680e16987a6e7511030039d00e1e0e6644df832b32d5');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 18) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0018_limits_storage.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 18, 'limits_storage', '31ddf46ba191f6fd003500810d3ce7e79df879aaad80422719081bfa726c9042');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 19) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0019_schedule_owners.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 19, 'schedule_owners', 'c32efaacb2c6ab4c76a00476f8eb6fa8dc9f4da5ddf136b92a1baede05eb857e');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 20) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0020_maintenance.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 20, 'maintenance', '2bee3c6febcd6997ea0e64b81be2655dcba44db084619cb2e15aaac92b65d540');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 21) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0021_daemon.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 21, 'daemon', 'ceb6ad59ce511d313f3d4fc107eebee1da5ce412a965f003cd3e05a8359c74e6');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 22) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0022_failed_jobs.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 22, 'failed_jobs', '8961d3286d7662a42a8aab1d02ec7f2f23c5c299730cb55b35aba3381c0435f9');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 23) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0023_stopping_workers.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 23, 'stopping_workers', '8c7c44247ac813ee52811b2d7ba9518b35052da5644dd204fa71112839fef694');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 24) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0024_durations.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 24, 'durations', '3c5bd1bf6daac9f2d198ee7eecd5c8d55a1a90b68f582e7139b6b1ce63699f3f');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 26) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0026_operation_ends.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 26, 'operation_ends', '6002ed587c80fac86690fab0df1cdf80da19127563470bef575610f732565b04');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 27) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0027_job_notes.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 27, 'job_notes', 'f334056d0b8a5645ed19527207f220bdbedd9636c9ef14b99b50d5b7634f46fc');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 28) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0028_lock_contention.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 28, 'lock_contention', '8ac67c7ce9e0d0844414c47cefdf986f1cd2fd256725a675e95b820dbbd693ba');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 29) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0029_deaf_workers.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 29, 'deaf_workers', '9d97fe36071df22bbeffcf9289079b54c079eb46d6e4116df1dd2fbc34e3bce4');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 30) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0030_copied_jobs.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 30, 'copied_jobs', 'd8814666d416fd946be21e4b25a7ddd7210bda90e128d012377acf51c58aae7a');
COMMIT;
\endif

SELECT NOT EXISTS (SELECT FROM pgsync.schema_migration
                   WHERE component = 'kernel' AND version = 31) AS pending \gset
\if :pending
BEGIN;
\ir migrations/0031_discarded_by_hand.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('kernel', 31, 'discarded_by_hand', '1443a7cd4c5e18aca101143ecbbe31ff26a4947b7609e2bd65adeec5817e38a2');
COMMIT;
\endif

BEGIN;
\ir api/0_foundation.sql
\ir api/1_locks.sql
\ir api/1_locks_acquire.sql
\ir api/1_locks_fencing.sql
\ir api/1_locks_hold.sql
\ir api/1_locks_many.sql
\ir api/1_locks_seen.sql
\ir api/1_locks_transaction.sql
\ir api/1_locks_usual.sql
\ir api/2_limits.sql
\ir api/2_limits_decide.sql
\ir api/2_limits_hit.sql
\ir api/2_limits_operate.sql
\ir api/2_limits_reserve.sql
\ir api/2_limits_storage.sql
\ir api/2_limits_wait.sql
\ir api/3_queue_floors.sql
\ir api/3_queues.sql
\ir api/3_queues_copied.sql
\ir api/3_queues_numbered.sql
\ir api/3_queues_operate.sql
\ir api/3_queues_unique.sql
\ir api/4_workers.sql
\ir api/4_workers_admit.sql
\ir api/4_workers_batches.sql
\ir api/4_workers_claim.sql
\ir api/4_workers_discards.sql
\ir api/4_workers_end.sql
\ir api/4_workers_history.sql
\ir api/4_workers_locks.sql
\ir api/4_workers_notes.sql
\ir api/4_workers_slots.sql
\ir api/4_workers_tenants.sql
\ir api/4_workers_together.sql
\ir api/5_queue_edit.sql
\ir api/5_queue_explain.sql
\ir api/5_queue_find.sql
\ir api/5_queue_views.sql
\ir api/6_schedules.sql
\ir api/6_schedules_declared.sql
\ir api/6_schedules_fire.sql
\ir api/7_operations.sql
\ir api/8_contention.sql
\ir api/8_horizon.sql
\ir api/8_statistics.sql
\ir api/9_maintenance.sql
\ir api/9_metrics.sql
\ir api/9_roles.sql
INSERT INTO pgsync.schema_migration (component, version, name, checksum)
VALUES ('api', 0, '0.1.0', 'e73122c28dde41051f89c90e2f597cb8ee5e85f01b37dc772606ea8a1c3a3804')
ON CONFLICT (component, version) DO UPDATE
SET name = excluded.name, checksum = excluded.checksum, applied_at = clock_timestamp();
SELECT pgsync.grant_roles(only_where_used => true) \g /dev/null
SELECT pgsync.prepare_history() \g /dev/null
COMMIT;
