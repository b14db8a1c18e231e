-- The data that a template's flow begins with is JSON, which is looked at before the first message
-- goes out. Runs before the code that needs it.

-- PostgreSQL 15 has no IS JSON. Not safe in parallel workers: they can have no subtransaction.
CREATE FUNCTION pgsync_modules.is_json_object(value text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN jsonb_typeof(value::jsonb) = 'object';
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN false;
END $$;

COMMENT ON FUNCTION pgsync_modules.is_json_object(text) IS
    'Whether a text is a JSON object that jsonb can hold; null for null.';
