-- Who started a campaign, for the history of all its runs. Runs before the code that needs it.

ALTER TABLE pgsync_modules.campaign
    ADD COLUMN started_by text;

COMMENT ON COLUMN pgsync_modules.campaign.started_by IS 'Who last started it, where that was said: the actor of its runs.';
COMMENT ON COLUMN pgsync_modules.campaign_recipient.failed_at IS 'When it failed, also while it waits to be tried again after that.';

CREATE OR REPLACE VIEW pgsync_modules.campaigns AS
SELECT c.id, c.workspace_id, c.connection_id, c.name, c.template_name, c.language, c.state,
       c.state_reason, c.scheduled_at, c.started_at, c.finished_at, c.created_at,
       r.recipients, r.pending, r.sending, r.sent, r.delivered, r.read, r.failed, r.skipped, r.unknown,
       c.started_by
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
