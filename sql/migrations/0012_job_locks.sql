-- Locks that a job takes with its claim, and tenants whose jobs take turns.
-- Runs before the code: the columns are new and may be null, so the former version goes on.

ALTER TABLE pgsync.job_ready ADD COLUMN lock_name text, ADD COLUMN tenant text;
ALTER TABLE pgsync.job_scheduled ADD COLUMN lock_name text, ADD COLUMN tenant text;
ALTER TABLE pgsync.job_finished ADD COLUMN lock_name text, ADD COLUMN tenant text;
ALTER TABLE pgsync.job_running ADD COLUMN lock_name text, ADD COLUMN lock_token bigint, ADD COLUMN tenant text;
ALTER TABLE pgsync.job_waiting
    ADD COLUMN lock_name text,
    ADD COLUMN tenant text,
    ADD COLUMN key_slot boolean NOT NULL DEFAULT false,
    DROP CONSTRAINT job_waiting_waits_for_check,
    ADD CHECK (waits_for IN ('key', 'jobs', 'lock'));

CREATE INDEX job_ready_lock ON pgsync.job_ready (lock_name, priority, id) WHERE lock_name IS NOT NULL;
CREATE INDEX job_waiting_lock ON pgsync.job_waiting (lock_name, priority, id) WHERE waits_for = 'lock';
CREATE INDEX job_ready_tenant ON pgsync.job_ready (queue, tenant, priority, position) WHERE tenant IS NOT NULL;
DROP INDEX pgsync.job_running_keyed;
CREATE INDEX job_running_keyed ON pgsync.job_running (worker)
    WHERE key IS NOT NULL OR after IS NOT NULL OR lock_name IS NOT NULL;

COMMENT ON COLUMN pgsync.job_ready.lock_name IS 'The lock (pgsync.locks) that it runs under, and is not claimed without.';
COMMENT ON COLUMN pgsync.job_ready.tenant IS 'Whose job it is: within a queue, tenants take turns.';
COMMENT ON COLUMN pgsync.job_running.lock_token IS
    'The token by which its lock was reserved in the claim; whoever performs the job restores the lock with it.';
COMMENT ON COLUMN pgsync.job_waiting.waits_for IS
    'key (a slot or a permit of its key), jobs (those of after) or lock (that of lock_name).';
COMMENT ON COLUMN pgsync.job_waiting.key_slot IS 'Whether it keeps a slot of its key meanwhile, as ordered jobs do.';
COMMENT ON INDEX pgsync.job_ready_lock IS 'Finds the jobs of a lock.';
COMMENT ON INDEX pgsync.job_waiting_lock IS 'Finds the next of a lock.';
COMMENT ON INDEX pgsync.job_ready_tenant IS 'The order of the claim within each tenant of a queue.';
COMMENT ON INDEX pgsync.job_running_keyed IS 'Finds what a claim must ask slots and locks for.';

ALTER TABLE pgsync.lock_holder ADD COLUMN awaited boolean NOT NULL DEFAULT false;

COMMENT ON COLUMN pgsync.lock_holder.awaited IS 'Whether jobs wait for the lock: its release resumes the next of them.';

CREATE TABLE pgsync.tenant_weight (
    queue text NOT NULL,
    tenant text NOT NULL,
    weight smallint NOT NULL CHECK (weight BETWEEN 1 AND 100),
    PRIMARY KEY (queue, tenant)
);

COMMENT ON TABLE pgsync.tenant_weight IS 'Tenants who have more than one job a turn in a queue.';
COMMENT ON COLUMN pgsync.tenant_weight.queue IS 'The queue.';
COMMENT ON COLUMN pgsync.tenant_weight.tenant IS 'The tenant.';
COMMENT ON COLUMN pgsync.tenant_weight.weight IS 'How many jobs it has a turn; others have one.';
