-- Finding recipients whose message may or may not have been sent, among millions. Runs before the code.

CREATE INDEX campaign_recipient_unknown ON pgsync_modules.campaign_recipient (campaign_id)
    WHERE state = 'unknown';

COMMENT ON INDEX pgsync_modules.campaign_recipient_unknown IS
    'Counts those of a campaign of whom nobody knows whether their message was sent.';
