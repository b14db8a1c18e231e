-- What the Graph API tells about templates by webhook, and campaigns that stop by themselves.
-- Runs before the code that needs it.

ALTER TABLE pgsync_modules.template_event
    ADD COLUMN said_at timestamptz;

CREATE UNIQUE INDEX template_event_said
    ON pgsync_modules.template_event (template_id, event, said_at, after)
    WHERE said_at IS NOT NULL;

COMMENT ON COLUMN pgsync_modules.template_event.at IS 'When it was noticed here.';
COMMENT ON COLUMN pgsync_modules.template_event.said_at IS 'When it came about, as the webhook says; null where a sync noticed it.';
COMMENT ON COLUMN pgsync_modules.template_event.event IS 'status, quality, category, deleted or restored.';
COMMENT ON INDEX pgsync_modules.template_event_said IS 'A webhook that comes again is no second event; the latest of a kind decides.';

ALTER TABLE pgsync_modules.campaign
    ADD COLUMN processed_before bigint NOT NULL DEFAULT 0,
    ADD COLUMN failed_before bigint NOT NULL DEFAULT 0;

COMMENT ON COLUMN pgsync_modules.campaign.processed_before IS 'How many recipients had an outcome when it was last started: its error rate is counted from there.';
COMMENT ON COLUMN pgsync_modules.campaign.failed_before IS 'How many of them had failed.';

CREATE INDEX campaign_live ON pgsync_modules.campaign (connection_id)
    WHERE state IN ('scheduled', 'sending');
CREATE INDEX campaign_recipient_failed ON pgsync_modules.campaign_recipient (campaign_id)
    WHERE state = 'failed';

COMMENT ON INDEX pgsync_modules.campaign_live IS 'The campaigns that a paused template, or a lost job, concerns.';
COMMENT ON INDEX pgsync_modules.campaign_recipient_failed IS 'Counts the failed ones while a campaign sends, and finds them to try again.';

CREATE FUNCTION pgsync_modules.pause_campaigns_of_template() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE pgsync_modules.campaign AS c
    SET state = 'paused',
        state_reason = format('template %s (%s) is %s', new.name, new.language, new.status)
    WHERE c.connection_id = new.connection_id AND c.template_name = new.name
      AND c.language = new.language AND c.state = 'sending';
    RETURN NULL;
END $$;

COMMENT ON FUNCTION pgsync_modules.pause_campaigns_of_template() IS 'Pauses the campaigns that are sending a template which the API has stopped, whoever noticed it.';

CREATE TRIGGER template_stopped
    AFTER UPDATE OF status ON pgsync_modules.template
    FOR EACH ROW
    WHEN (new.status IN ('PAUSED', 'DISABLED') AND old.status IS DISTINCT FROM new.status)
    EXECUTE FUNCTION pgsync_modules.pause_campaigns_of_template();

COMMENT ON TRIGGER template_stopped ON pgsync_modules.template IS 'A sync and a webhook pause campaigns alike.';
