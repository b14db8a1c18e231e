-- Locks in all modes, hand-over, lock delay, requests to finish; fences; the audit trail.
-- Runs before the code: the columns are new and have defaults, so the former version goes on.

ALTER TABLE pgsync.lock_holder
    DROP CONSTRAINT lock_holder_key_key,
    DROP CONSTRAINT lock_holder_mode_check,
    ADD CHECK (mode IN ('exclusive', 'shared', 'semaphore')),
    ADD COLUMN slot integer,
    ADD COLUMN host text,
    ADD COLUMN delay interval,
    ADD COLUMN lost_at timestamptz,
    ADD COLUMN handed_over boolean NOT NULL DEFAULT false,
    ADD COLUMN audited boolean NOT NULL DEFAULT false,
    ADD COLUMN asked_by text,
    ADD COLUMN asked_why text;

CREATE INDEX lock_holder_key ON pgsync.lock_holder (key);

COMMENT ON INDEX pgsync.lock_holder_key IS 'Finds who holds or held a lock.';
COMMENT ON COLUMN pgsync.lock_holder.key IS
    'The advisory lock: pgsync.lock_key(name), or pgsync.slot_key(name, slot) for a semaphore.';
COMMENT ON COLUMN pgsync.lock_holder.mode IS 'exclusive, shared or semaphore.';
COMMENT ON COLUMN pgsync.lock_holder.slot IS 'Which slot of a semaphore it is, from 1.';
COMMENT ON COLUMN pgsync.lock_holder.pid IS
    'The server process whose session holds the advisory lock; 0 once it was given back while a guarded transaction went on.';
COMMENT ON COLUMN pgsync.lock_holder.host IS 'The machine of the holder''s process, where its client said so.';
COMMENT ON COLUMN pgsync.lock_holder.delay IS
    'How long nobody is granted the lock after this holder was lost without giving it back.';
COMMENT ON COLUMN pgsync.lock_holder.lost_at IS 'When somebody first saw that the holder was lost; the delay runs from then.';
COMMENT ON COLUMN pgsync.lock_holder.handed_over IS
    'Given to whoever presents the token (restore_lock): until the deadline the row alone keeps others out.';
COMMENT ON COLUMN pgsync.lock_holder.audited IS 'Whether contention for it and its expiry go into the audit trail.';
COMMENT ON COLUMN pgsync.lock_holder.asked_by IS 'Who has asked the holder to finish.';
COMMENT ON COLUMN pgsync.lock_holder.asked_why IS 'Why the holder was asked to finish.';
COMMENT ON SEQUENCE pgsync.lock_token IS
    'The low 44 bits of fencing tokens; see pgsync.lock_token_base() for the high ones.';

-- Unlogged, so that a crash and a promoted standby both come up without its row.
CREATE UNLOGGED TABLE pgsync.lock_token_base (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    base bigint NOT NULL,
    set_at timestamptz NOT NULL
);

COMMENT ON TABLE pgsync.lock_token_base IS
    'The high bits of fencing tokens in this life of the server: one row, written by the first grant after a crash or a failover.';
COMMENT ON COLUMN pgsync.lock_token_base.only_row IS 'Always true: there is one row.';
COMMENT ON COLUMN pgsync.lock_token_base.base IS 'The epoch, shifted left by 44 bits.';
COMMENT ON COLUMN pgsync.lock_token_base.set_at IS 'When this life of the server granted its first lock.';

CREATE TABLE pgsync.lock_token_epoch (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch bigint NOT NULL,
    timeline bigint NOT NULL
);

COMMENT ON TABLE pgsync.lock_token_epoch IS
    'Which epoch fencing tokens are in: one row, logged, so that it is dumped, restored and upgraded with the database.';
COMMENT ON COLUMN pgsync.lock_token_epoch.only_row IS 'Always true: there is one row.';
COMMENT ON COLUMN pgsync.lock_token_epoch.epoch IS 'The high bits of the tokens of this timeline.';
COMMENT ON COLUMN pgsync.lock_token_epoch.timeline IS 'The timeline of the server''s log in which the epoch began.';

CREATE TABLE pgsync.fence (
    resource text PRIMARY KEY,
    token bigint NOT NULL,
    passed_at timestamptz NOT NULL
);

COMMENT ON TABLE pgsync.fence IS 'The highest token that each fenced resource has seen.';
COMMENT ON COLUMN pgsync.fence.resource IS 'What is protected: any name.';
COMMENT ON COLUMN pgsync.fence.token IS 'Tokens below this one are refused.';
COMMENT ON COLUMN pgsync.fence.passed_at IS 'When a token last passed.';

CREATE INDEX fence_passed_at ON pgsync.fence (passed_at);

COMMENT ON INDEX pgsync.fence_passed_at IS 'Finds fences that nobody has passed for long.';

CREATE TABLE pgsync.audit_entry (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    action text NOT NULL,
    subject text NOT NULL,
    actor text NOT NULL,
    detail jsonb NOT NULL
);

COMMENT ON TABLE pgsync.audit_entry IS 'The audit trail: what people and pgsync did that somebody may ask about later.';
COMMENT ON COLUMN pgsync.audit_entry.id IS 'Number of the entry.';
COMMENT ON COLUMN pgsync.audit_entry.at IS 'When it happened.';
COMMENT ON COLUMN pgsync.audit_entry.action IS 'What was done, for example lock.forced.';
COMMENT ON COLUMN pgsync.audit_entry.subject IS 'What it was done to, for example a lock''s name.';
COMMENT ON COLUMN pgsync.audit_entry.actor IS 'Who did it: free text.';
COMMENT ON COLUMN pgsync.audit_entry.detail IS 'What else is known.';

CREATE INDEX audit_entry_at ON pgsync.audit_entry (at);
CREATE INDEX audit_entry_subject ON pgsync.audit_entry (subject, at);

COMMENT ON INDEX pgsync.audit_entry_at IS 'Reads the trail by time and prunes it.';
COMMENT ON INDEX pgsync.audit_entry_subject IS 'Reads the trail of one subject.';
