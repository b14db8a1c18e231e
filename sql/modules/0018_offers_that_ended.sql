-- Whose offer has ended is skipped too. May run before or after the code.

COMMENT ON COLUMN pgsync_modules.campaign_recipient.state IS 'pending; sending (claimed, the call may be under way); sent, delivered, read; failed; skipped (opted out, or the offer had ended); unknown (the call may have been accepted: not sent again, settled by a status webhook).';
