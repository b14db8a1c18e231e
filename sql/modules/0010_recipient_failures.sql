-- How often a recipient itself met an error, apart from how often it was claimed. Runs before the code.

ALTER TABLE pgsync_modules.campaign_recipient
    ADD COLUMN failures integer NOT NULL DEFAULT 0;

COMMENT ON COLUMN pgsync_modules.campaign_recipient.failures IS 'How many of its attempts met an error of its own or of the network; after ten it fails. That all had to wait is none.';
