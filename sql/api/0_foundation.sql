-- What every concept stands on: the clock, and the checks at the door.

CREATE OR REPLACE FUNCTION pgsync.clock() RETURNS timestamptz
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN clock_timestamp();

COMMENT ON FUNCTION pgsync.clock() IS
    'The one clock of pgsync. Tests replace it in their own databases to move time.';

CREATE OR REPLACE FUNCTION pgsync.check_name(value text, what text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF value IS NULL OR value = '' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s must not be empty', what);
    ELSIF octet_length(value) > 1024 THEN
        RAISE invalid_parameter_value USING MESSAGE = format(
            '%s must have at most 1024 bytes, this has %s', what, octet_length(value));
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.check_name(text, text) IS
    'Raises invalid_parameter_value unless the name has 1 to 1024 bytes.';

CREATE OR REPLACE FUNCTION pgsync.check_duration(value interval, what text) RETURNS void
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF value IS NULL OR value <= interval '0' THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s must be above zero, not %s',
            what, coalesce(value::text, 'null'));
    END IF;
END
$$;

COMMENT ON FUNCTION pgsync.check_duration(interval, text) IS
    'Raises invalid_parameter_value unless the interval is above zero.';
