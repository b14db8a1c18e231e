-- Refused rows are kept whole, so that a file of them loses nothing. Runs before or after the code.

COMMENT ON COLUMN pgsync_modules.contact_import_rejects.raw IS 'Its cells by header; outer space, control characters and the guard against formulas are taken away, as of those that are imported.';
