-- Since when a recipient's outcome is unknown. Runs before the code that needs it.

ALTER TABLE pgsync_modules.campaign_recipient
    ADD COLUMN unknown_at timestamptz;

COMMENT ON COLUMN pgsync_modules.campaign_recipient.unknown_at IS 'When it was last found that nobody knows whether the message was accepted.';
