-- Campaigns back off as a whole while the API is in trouble. Runs before the code that needs it.

ALTER TABLE pgsync_modules.campaign
    ADD COLUMN troubled_rounds integer NOT NULL DEFAULT 0;

COMMENT ON COLUMN pgsync_modules.campaign.troubled_rounds IS 'How many of its runs in a row met an API in trouble: the next one begins the later.';
