-- How campaigns choose their audience and pace themselves; views for what people look at.
-- Runs before the code that needs it.

ALTER TABLE pgsync_modules.connection
    ADD COLUMN portfolio text,
    ADD COLUMN daily_limit integer CHECK (daily_limit > 0);

COMMENT ON COLUMN pgsync_modules.connection.portfolio IS 'The business portfolio, whose connections share one messaging limit; null stands for the account''s own.';
COMMENT ON COLUMN pgsync_modules.connection.daily_limit IS 'The tier of that limit: so many users in a moving 24 hours (250, 2,000, 10,000, 100,000); null is unlimited.';

ALTER TABLE pgsync_modules.campaign
    ADD COLUMN audience jsonb,
    ADD COLUMN audience_taken_at timestamptz,
    ADD COLUMN variables text[] NOT NULL DEFAULT '{name}',
    ADD COLUMN send_delay interval CHECK (send_delay > '0'),
    ADD COLUMN quiet_from time,
    ADD COLUMN quiet_until time,
    ADD COLUMN quiet_zone text NOT NULL DEFAULT 'UTC';

COMMENT ON COLUMN pgsync_modules.campaign.audience IS 'Which contacts it is for (tags: one of them; custom: all of them), looked for when it is first started; null where recipients are added by hand.';
COMMENT ON COLUMN pgsync_modules.campaign.audience_taken_at IS 'When the contacts were looked for.';
COMMENT ON COLUMN pgsync_modules.campaign.variables IS 'The contact''s fields that fill the template''s variables, in order: name, phone, email, company, custom.FIELD.';
COMMENT ON COLUMN pgsync_modules.campaign.send_delay IS 'The time between two messages; null is none.';
COMMENT ON COLUMN pgsync_modules.campaign.quiet_from IS 'From this time of day it sends nothing; null where it has no quiet hours.';
COMMENT ON COLUMN pgsync_modules.campaign.quiet_until IS 'Until this time of day, of the same or the next day.';
COMMENT ON COLUMN pgsync_modules.campaign.quiet_zone IS 'The time zone in which they are meant.';
COMMENT ON COLUMN pgsync_modules.campaign.state_reason IS 'Why it is in that state, or what it waits for, where there is something to say.';

CREATE FUNCTION pgsync_modules.quiet_for(
    quiet_from time, quiet_until time, zone text, at timestamptz DEFAULT clock_timestamp()
) RETURNS interval LANGUAGE sql STABLE AS $$
    SELECT (l.now::date
            + CASE WHEN quiet_from > quiet_until AND l.now::time >= quiet_from THEN 1 ELSE 0 END
            + quiet_until) AT TIME ZONE zone - at
    FROM (SELECT at AT TIME ZONE zone AS now) AS l
    WHERE quiet_from IS NOT NULL
      AND CASE WHEN quiet_from <= quiet_until
               THEN l.now::time >= quiet_from AND l.now::time < quiet_until
               ELSE l.now::time >= quiet_from OR l.now::time < quiet_until END
$$;

COMMENT ON FUNCTION pgsync_modules.quiet_for(time, time, text, timestamptz) IS 'How long quiet hours still last; null outside of them.';

CREATE TABLE pgsync_modules.messaged_user (
    portfolio text NOT NULL,
    phone text NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (portfolio, phone)
);

CREATE INDEX messaged_user_at ON pgsync_modules.messaged_user (portfolio, at);

COMMENT ON TABLE pgsync_modules.messaged_user IS 'Who was last written to when, for the messaging limit of portfolios that have one; older than a day is removed.';
COMMENT ON COLUMN pgsync_modules.messaged_user.portfolio IS 'The portfolio.';
COMMENT ON COLUMN pgsync_modules.messaged_user.phone IS 'The phone number, E.164.';
COMMENT ON COLUMN pgsync_modules.messaged_user.at IS 'When it was last claimed to be written to.';
COMMENT ON INDEX pgsync_modules.messaged_user_at IS 'Counts the users of a day, and finds what is older.';

CREATE VIEW pgsync_modules.campaigns AS
SELECT c.id, c.workspace_id, c.connection_id, c.name, c.template_name, c.language, c.state,
       c.state_reason, c.scheduled_at, c.started_at, c.finished_at, c.created_at,
       r.recipients, r.pending, r.sending, r.sent, r.delivered, r.read, r.failed, r.skipped, r.unknown
FROM pgsync_modules.campaign AS c
CROSS JOIN LATERAL (
    SELECT count(*) AS recipients,
           count(*) FILTER (WHERE state = 'pending') AS pending,
           count(*) FILTER (WHERE state = 'sending') AS sending,
           count(*) FILTER (WHERE state IN ('sent', 'delivered', 'read')) AS sent,
           count(*) FILTER (WHERE state IN ('delivered', 'read')) AS delivered,
           count(*) FILTER (WHERE state = 'read') AS read,
           count(*) FILTER (WHERE state = 'failed') AS failed,
           count(*) FILTER (WHERE state = 'skipped') AS skipped,
           count(*) FILTER (WHERE state = 'unknown') AS unknown
    FROM pgsync_modules.campaign_recipient WHERE campaign_id = c.id
) AS r;

COMMENT ON VIEW pgsync_modules.campaigns IS 'Campaigns with what became of their messages; what is read was delivered, and what is delivered was sent.';

CREATE VIEW pgsync_modules.templates AS
SELECT t.id, t.connection_id, n.workspace_id, t.name, t.language, t.category, t.status, t.sendable,
       t.quality_score ->> 'score' AS quality, t.rejected_reason, t.remotely_deleted_at,
       t.last_synced_at, t.last_synced_at < clock_timestamp() - interval '24 hours' AS stale,
       t.last_error
FROM pgsync_modules.template AS t
JOIN pgsync_modules.connection AS n ON n.id = t.connection_id;

COMMENT ON VIEW pgsync_modules.templates IS 'Templates as they were last seen; stale where no sync saw them for a day.';
